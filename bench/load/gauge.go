// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"time"

	"golang.org/x/sys/unix"
)

// What gauge times: seconds of CPU per byte, or per operation.
const (
	GaugeSeal   = "seal"   // AES-128-GCM, 16 KiB, crypto/cipher
	GaugeOpen   = "open"   //
	GaugeSign   = "sign"   // ECDSA P-256
	GaugeVerify = "verify" //
	GaugeX25519 = "x25519" // a key and one exchange
)

// gauge times what a tunnel must compute, on this CPU, now.
func gauge() (Answer, error) {
	const record = 16 << 10
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return Answer{}, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return Answer{}, err
	}
	nonce, plain := make([]byte, gcm.NonceSize()), make([]byte, record)
	sealed := gcm.Seal(nil, nonce, plain, nil)
	room := make([]byte, 0, len(sealed))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Answer{}, err
	}
	digest := make([]byte, 32)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		return Answer{}, err
	}
	peer, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Gauges: map[string]float64{
		GaugeSeal:   each(func() { gcm.Seal(room, nonce, plain, nil) }) / record,
		GaugeOpen:   each(func() { _, _ = gcm.Open(room, nonce, sealed, nil) }) / record,
		GaugeSign:   each(func() { _, _ = ecdsa.SignASN1(rand.Reader, key, digest) }),
		GaugeVerify: each(func() { ecdsa.VerifyASN1(&key.PublicKey, digest, signature) }),
		GaugeX25519: each(func() {
			if own, err := ecdh.X25519().GenerateKey(rand.Reader); err == nil {
				_, _ = own.ECDH(peer.PublicKey())
			}
		}),
	}}, nil
}

// each is the CPU time of one call: that of the process, since a goroutine may
// change its thread, and nothing else runs in it.
func each(f func()) float64 {
	const long = 20 * time.Millisecond
	begin := cpuTime()
	for n := 1; ; n++ {
		f()
		if used := cpuTime() - begin; used > long {
			return used.Seconds() / float64(n)
		}
	}
}

func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
