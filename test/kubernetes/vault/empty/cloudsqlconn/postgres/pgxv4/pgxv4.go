// SPDX-License-Identifier: Apache-2.0

// Package pgxv4 is empty in this build.
package pgxv4

import "errors"

func RegisterDriver[Option any](string, ...Option) (func() error, error) {
	return nil, errors.New("it is not in this build")
}
