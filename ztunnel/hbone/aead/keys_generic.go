// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || purego

package aead

// keys stands for what this build has no use for: without kernels, no GCM
// holds one.
type keys struct{ kernel kernel }

func kernels() []kernel { return nil }

func (k kernel) String() string { return "crypto/cipher" }

func newKeys(kernel, []byte) *keys { panic("aead: no kernel in this build") }

func (k *keys) forget() {}

func (k *keys) seal(_, _ []byte, _ *[16]byte, _ []byte) (tag [16]byte) {
	panic("aead: no kernel in this build")
}

func (k *keys) open(_, _ []byte, _ *[16]byte, _ []byte) (tag [16]byte) {
	panic("aead: no kernel in this build")
}
