// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
	"go.step.sm/crypto/kms"
	"go.step.sm/crypto/kms/apiv1"
	_ "go.step.sm/crypto/kms/awskms"   // they name themselves to kms
	_ "go.step.sm/crypto/kms/azurekms" //
	_ "go.step.sm/crypto/kms/cloudkms" //
	_ "go.step.sm/crypto/kms/pkcs11"   //
	"go.step.sm/crypto/kms/uri"
)

// openAgain is the pause between two attempts to open the key.
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
	opened  int // how often it was: tells a key that is open from those before it
	problem error
	tried   time.Time

	refusedPIN string // by the token, for refusal; empty: none
	refusal    error
}

// known are what a URI may say, by its scheme. Nothing else is taken: what a library reads
// there may be a secret, and the URI stands in the command line, in the log, and in what the
// CA says of its signer.
var known = map[string][]string{
	"pkcs11":   {"module-path", "token", "serial", "slot-id", "id", "object", "max-sessions", "pin-source"},
	"awskms":   {"profile", "region", "credentials-file", "key-id", "name"},
	"cloudkms": {"credentials-file", "resource"},
	"azurekms": {"vault", "name", "version", "hsm", "environment", "tenant-id", "aad-endpoint"},
	"softkms":  {"path"},
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
	kind := strings.ToLower(u.Scheme)
	attributes, ok := known[kind]
	if !ok {
		return nil, fmt.Errorf("-key: the scheme is %q, want pkcs11, awskms, cloudkms, azurekms or softkms", u.Scheme)
	}
	for _, given := range slices.Concat(slices.Collect(maps.Keys(u.Values)), slices.Collect(maps.Keys(u.URL.Query()))) {
		if kind == "cloudkms" && strings.HasPrefix(given, "projects/") {
			continue // the name of the key, without "resource="
		}
		if !slices.Contains(attributes, given) {
			return nil, fmt.Errorf("-key: %q is not taken from a URI of the scheme %s, want %s; secrets are given by environment or file", given, kind, strings.Join(attributes, ", "))
		}
	}
	return &key{text: text, uri: u, log: log}, nil
}

func (k *key) String() string { return k.text }

// open returns the key. After a failure it says why for a while, and tries again.
func (k *key) open() (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return held{k.signer, k, k.opened}, nil
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
	return held{k.signer, k, k.opened}, nil
}

func (k *key) openLocked() error {
	pin, err := k.pin()
	if err != nil {
		return err
	}
	if k.refusal != nil && pin == k.refusedPIN {
		return k.refusal
	}
	k.refusedPIN, k.refusal = "", nil
	name := k.String()
	opts := apiv1.Options{URI: name, Pin: pin}
	manager, err := kms.New(context.Background(), opts)
	if refusesPIN(err) {
		k.refusedPIN, k.refusal = pin, fmt.Errorf("%w: it is not tried again until the file of pin-source holds another PIN", err)
		return k.refusal
	}
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
	k.opened++
	return nil
}

// refusesPIN reports whether a token has counted a wrong PIN: after three to ten of them, most
// are locked, some for good. One that is locked counts no more, and may be tried.
func refusesPIN(err error) bool {
	var code pkcs11.Error
	return errors.As(err, &code) && slices.Contains([]pkcs11.Error{
		pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED}, code)
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
	pin := strings.TrimRight(string(text), "\r\n")
	if pin == "" {
		return "", fmt.Errorf("pin-source: %s is empty", path)
	}
	return pin, nil
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
func (k *key) lose(opened int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer == nil || k.opened != opened {
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
	key    *key
	opened int
}

func (h held) Sign(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := h.sign(random, message, opts)
	if err != nil {
		h.key.lose(h.opened, err)
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
