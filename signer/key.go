// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.step.sm/crypto/kms"
	"go.step.sm/crypto/kms/apiv1"
	_ "go.step.sm/crypto/kms/awskms"   // they name themselves to kms
	_ "go.step.sm/crypto/kms/azurekms" //
	_ "go.step.sm/crypto/kms/cloudkms" //
	_ "go.step.sm/crypto/kms/pkcs11"   //
	"go.step.sm/crypto/kms/uri"
)

// openAgain is the pause between two attempts to open the key: tokens lock themselves after
// a few wrong PINs.
const openAgain = 10 * time.Second

// maxPIN bounds the file of a PIN.
const maxPIN = 4 << 10

// key is a private key somewhere else, opened again when it was lost.
type key struct {
	text string // as it was given: uri is written in another way for some clouds
	uri  *uri.URI
	log  *slog.Logger

	use sync.RWMutex // held while the key signs: it is not closed meanwhile

	mu      sync.Mutex // guards what follows
	manager apiv1.KeyManager
	signer  crypto.Signer
	problem error
	tried   time.Time
}

var errPINGiven = errors.New("-key: a PIN in a command line is read by everybody on the machine: want pin-source=file:PATH")

func newKey(text string, log *slog.Logger) (*key, error) {
	if text == "" {
		return nil, errors.New("-key is required")
	}
	u, err := uri.Parse(text)
	if err != nil { // it may quote a PIN
		return nil, errors.New("-key: it is no URI such as pkcs11:token=NAME;object=NAME")
	}
	if u.Has("pin-value") || u.Has("pin-prompt") || u.User != nil {
		return nil, errPINGiven
	}
	kind := apiv1.Type(strings.ToLower(u.Scheme))
	if _, known := apiv1.LoadKeyManagerNewFunc(kind); !known {
		return nil, fmt.Errorf("-key %s: the scheme is %q, want pkcs11, awskms, cloudkms, azurekms or softkms", text, u.Scheme)
	}
	return &key{text: text, uri: u, log: log}, nil
}

func (k *key) String() string { return k.text }

// open returns the key. After a failure it says why for a while, and tries again.
func (k *key) open() (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return held{k.signer, k}, nil
	}
	if k.problem != nil && time.Since(k.tried) < openAgain {
		return nil, k.problem
	}
	k.tried = time.Now()
	defer k.watched()()
	err := k.openLocked()
	if err != nil {
		err = fmt.Errorf("%s: %w", k, err)
		if k.problem == nil || k.problem.Error() != err.Error() {
			k.log.Error("the key cannot be opened; it is tried again", "error", err)
		}
		k.problem = err
		return nil, err
	}
	k.problem = nil
	k.log.Info("the key is open", "key", k.String())
	return held{k.signer, k}, nil
}

func (k *key) openLocked() error {
	pin, err := k.pin()
	if err != nil {
		return err
	}
	name := k.String()
	opts := apiv1.Options{URI: name, Pin: pin}
	manager, err := kms.New(context.Background(), opts)
	if err != nil {
		return err
	}
	request := &apiv1.CreateSignerRequest{SigningKey: name}
	if strings.EqualFold(k.uri.Scheme, string(apiv1.SoftKMS)) {
		request.SigningKey = k.uri.Get("path")
	}
	signer, err := manager.CreateSigner(request)
	if err != nil {
		return errors.Join(err, manager.Close())
	}
	k.manager, k.signer = manager, signer
	return nil
}

// pin is what the file of pin-source holds, in one line.
func (k *key) pin() (string, error) {
	source := k.uri.Get("pin-source")
	if source == "" {
		return "", nil
	}
	path := strings.TrimPrefix(strings.TrimPrefix(source, "file://"), "file:")
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("pin-source: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("pin-source: %w", err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("pin-source: %s is no regular file, or others may read it: its mode is %v", path, info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPIN))
	if err != nil {
		return "", fmt.Errorf("pin-source: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// hungAfter is how long a token may take. Its library cannot be interrupted: whoever started
// this program starts it again.
const hungAfter = time.Minute

// watched ends the program if what follows does not end.
func (k *key) watched() (done func()) {
	timer := time.AfterFunc(hungAfter, func() {
		k.log.Error("the key does not answer; this program ends", "key", k.String(), "after", hungAfter.String())
		os.Exit(1)
	})
	return func() { timer.Stop() }
}

// lose has the next question open the key anew, if it is still the one that failed.
func (k *key) lose(signer crypto.Signer, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != signer {
		return
	}
	k.log.Error("the key does not sign; it is opened again", "error", err)
	k.closeLocked()
}

func (k *key) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closeLocked()
}

func (k *key) closeLocked() {
	k.use.Lock()
	defer k.use.Unlock()
	if k.manager != nil {
		if err := k.manager.Close(); err != nil {
			k.log.Warn("the token cannot be closed", "error", err)
		}
	}
	k.manager, k.signer = nil, nil
}

// held is the open key. What fails to sign is opened anew: a token that was taken out and
// put back has forgotten its sessions.
type held struct {
	crypto.Signer
	key *key
}

func (h held) Sign(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := h.sign(random, message, opts)
	if err != nil {
		h.key.lose(h.Signer, err)
		return nil, fmt.Errorf("%s: %w", h.key, err)
	}
	return signature, nil
}

func (h held) sign(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	h.key.use.RLock()
	defer h.key.use.RUnlock()
	defer h.key.watched()()
	return h.Signer.Sign(random, message, opts)
}
