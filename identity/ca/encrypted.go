// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/youmark/pkcs8"
)

// What the decryption of a key may cost. openssl writes 2,048 iterations, step
// 600,000; whoever writes a file must not make its reader work for hours.
const (
	maxIterations   = 10_000_000
	maxScryptMemory = 256 << 20
	maxScryptP      = 16
	maxPassphrase   = 4 << 10
)

// decrypted returns the block of a key in clear.
func (e *examination) decrypted(name string, block *pem.Block) (*pem.Block, bool) {
	// RFC 1423 is insecure by design, and what openssl wrote for decades.
	legacy := x509.IsEncryptedPEMBlock(block) //lint:ignore SA1019 old files must be read
	if !legacy && block.Type != pkcs8Secret {
		return block, true
	}
	if e.opts.PassphraseFile == "" {
		code := encryptedKey
		if name == e.names.rootKey {
			code = rootKeyEncrypted
		}
		e.report(code, name, "%s is encrypted, and no file with its passphrase is named", name)
		return nil, false
	}
	passphrase, err := readPassphrase(e.opts.PassphraseFile)
	if err != nil {
		e.report(passphraseUnreadable, name, "%s is encrypted, and its passphrase cannot be read: %v", name, err)
		return nil, false
	}
	clear, err := decrypt(block, passphrase, legacy)
	if err != nil {
		e.report(passphraseWrong, name, "%s: the passphrase in %s does not open it: %v", name, e.opts.PassphraseFile, err)
		return nil, false
	}
	return clear, true
}

// encryptedIn reports whether a text holds an encrypted private key.
func encryptedIn(text []byte) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		legacy := x509.IsEncryptedPEMBlock(block) //lint:ignore SA1019 as above
		if legacy || block.Type == pkcs8Secret {
			return true
		}
	}
	return false
}

// OpenKey returns the block of a private key in clear. An encrypted one is opened by the
// passphrase in a file. No error quotes a key or a passphrase.
func OpenKey(block *pem.Block, passphraseFile string) (*pem.Block, error) {
	legacy := x509.IsEncryptedPEMBlock(block) //lint:ignore SA1019 as above
	if !legacy && block.Type != pkcs8Secret {
		return block, nil
	}
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return nil, fmt.Errorf("its passphrase cannot be read: %v", err)
	}
	clear, err := decrypt(block, passphrase, legacy)
	if err != nil {
		return nil, fmt.Errorf("the passphrase in %s does not open it: %v", passphraseFile, err)
	}
	return clear, nil
}

func decrypt(block *pem.Block, passphrase []byte, legacy bool) (*pem.Block, error) {
	if legacy {
		der, err := x509.DecryptPEMBlock(block, passphrase) //lint:ignore SA1019 as above
		return &pem.Block{Type: block.Type, Bytes: der}, err
	}
	if err := checkCost(block.Bytes); err != nil {
		return nil, err
	}
	key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes, passphrase)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pem.Block{Type: pkcs8Key, Bytes: der}, err
}

// readPassphrase reads a file without the end of its line. It does not wait for the
// writer of a FIFO.
func readPassphrase(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if stat, err := f.Stat(); err != nil || !stat.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxPassphrase:
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxPassphrase)
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// checkCost refuses a key whose derivation from the passphrase takes too much
// (RFC 8018, A.2 and A.4; RFC 7914, 7).
func checkCost(der []byte) error {
	var encrypted struct {
		Scheme pkix.AlgorithmIdentifier
		Key    []byte
	}
	if _, err := asn1.Unmarshal(der, &encrypted); err != nil {
		return err
	}
	if !encrypted.Scheme.Algorithm.Equal(oidPBES2) {
		return fmt.Errorf("it is encrypted by the scheme %v, want PBES2", encrypted.Scheme.Algorithm)
	}
	var scheme struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	if _, err := asn1.Unmarshal(encrypted.Scheme.Parameters.FullBytes, &scheme); err != nil {
		return err
	}
	switch kdf := scheme.KDF; {
	case kdf.Algorithm.Equal(oidPBKDF2):
		return checkPBKDF2(kdf.Parameters.FullBytes)
	case kdf.Algorithm.Equal(oidScrypt):
		return checkScrypt(kdf.Parameters.FullBytes)
	}
	return fmt.Errorf("its passphrase is stretched by %v, want PBKDF2 or scrypt", scheme.KDF.Algorithm)
}

func checkPBKDF2(der []byte) error {
	var params struct {
		Salt       []byte
		Iterations int
		KeyLength  int                      `asn1:"optional"`
		Hash       pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &params); err != nil {
		return err
	}
	if n := params.Iterations; n < 1 || n > maxIterations {
		return fmt.Errorf("it takes %d iterations to open, the limit is %d", n, maxIterations)
	}
	return nil
}

func checkScrypt(der []byte) error {
	var params struct {
		Salt      []byte
		N, R, P   int
		KeyLength int `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &params); err != nil {
		return err
	}
	n, r, p := params.N, params.R, params.P
	if n < 1 || r < 1 || p < 1 || p > maxScryptP || n > maxScryptMemory/128/r {
		return fmt.Errorf("scrypt with N=%d, r=%d, p=%d takes more than %d bytes to open, or too long", n, r, p, maxScryptMemory)
	}
	return nil
}
