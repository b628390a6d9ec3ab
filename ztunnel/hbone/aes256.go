// SPDX-License-Identifier: Apache-2.0

//go:build aes256

package hbone

import (
	"crypto/tls"
	_ "unsafe" // for go:linkname
)

// preferred is crypto/tls's sequence of the ciphers of TLS 1.3, which has no setting. With
// the tag aes256 it begins with AES-256, as Istio's ztunnel does: bench sets both beside
// each other with the same cipher.
//
//go:linkname preferred crypto/tls.defaultCipherSuitesTLS13
var preferred []uint16

func init() {
	preferred = []uint16{tls.TLS_AES_256_GCM_SHA384, tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256}
}
