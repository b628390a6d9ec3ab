// SPDX-License-Identifier: Apache-2.0

// Package awskms has no key service in this build.
package awskms

import (
	"context"
	"errors"

	wrapping "github.com/hashicorp/go-kms-wrapping/v2"
)

const (
	EnvAwsKmsWrapperKeyId   = "AWSKMS_WRAPPER_KEY_ID"
	EnvVaultAwsKmsSealKeyId = "VAULT_AWSKMS_SEAL_KEY_ID"
)

type key struct{ wrapping.Wrapper }

func NewWrapper() *key { return &key{} }

func (*key) SetConfig(context.Context, ...wrapping.Option) (*wrapping.WrapperConfig, error) {
	return nil, errors.New("it is not in this build")
}

func WithDisallowEnvVars(bool) wrapping.Option { return nil }

// WithLogger is for the key that Vault keeps by shares, and sets no logger of it.
func WithLogger(any) wrapping.Option { return func() any { return nil } }
