// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Lock says to whom keys are encrypted: to a passphrase, or to recipients.
type Lock struct {
	PassphraseFile string   // its first line; this or Recipients is required
	Recipients     []string // as age-keygen prints them: age1…
}

// Key says what opens what a Lock closed.
type Key struct {
	PassphraseFile string // this or IdentityFile is required
	IdentityFile   string // as age-keygen writes it
}

// Seal encrypts by age (age-encryption.org/v1), as text.
func (l Lock) Seal(content []byte) ([]byte, error) {
	recipients, err := l.recipients()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %v", err)
	}
	_, err = w.Write(content)
	if err := errors.Join(err, w.Close(), text.Close()); err != nil {
		return nil, fmt.Errorf("encrypt: %v", err)
	}
	return out.Bytes(), nil
}

// Check says what is wrong with a Lock before anything is made for it.
func (l Lock) Check() error {
	_, err := l.recipients()
	return err
}

func (l Lock) recipients() (all []age.Recipient, err error) {
	switch {
	case l.PassphraseFile == "" && len(l.Recipients) == 0:
		return nil, errors.New("keys are written only encrypted: give --recipient or --passphrase-file")
	case l.PassphraseFile != "" && len(l.Recipients) > 0:
		return nil, errors.New("--recipient and --passphrase-file: give one of both")
	case l.PassphraseFile != "":
		passphrase, err := readPassphrase(l.PassphraseFile)
		if err != nil {
			return nil, err
		}
		r, err := age.NewScryptRecipient(passphrase)
		return []age.Recipient{r}, err
	}
	for _, text := range l.Recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("--recipient %q: want one that age-keygen prints, as age1…", text)
		}
		all = append(all, r)
	}
	return all, nil
}

// minPassphrase is the shortest that is taken: below, it is guessed in a day.
const minPassphrase = 12

func readPassphrase(path string) (string, error) {
	text, err := ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--passphrase-file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if len(line) < minPassphrase {
		return "", fmt.Errorf("--passphrase-file: the first line of %s has %d characters, want %d at least", path, len(line), minPassphrase)
	}
	return line, nil
}

// Sealed reports whether text was made by Seal, or by age.
func Sealed(text []byte) bool {
	return bytes.HasPrefix(text, []byte(armor.Header)) || bytes.HasPrefix(text, []byte("age-encryption.org/"))
}

// Open decrypts what Seal, or age, encrypted.
func (k Key) Open(sealed []byte) ([]byte, error) {
	identities, err := k.identities()
	if err != nil {
		return nil, err
	}
	var in io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(sealed, []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, identities...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %v", err)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxBackup+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("decrypt: %v", err)
	case len(content) > maxBackup:
		return nil, fmt.Errorf("decrypt: longer than %d bytes", maxBackup)
	}
	return content, nil
}

func (k Key) identities() ([]age.Identity, error) {
	switch {
	case k.PassphraseFile == "" && k.IdentityFile == "":
		return nil, errors.New("it is encrypted: give --identity-file or --passphrase-file")
	case k.PassphraseFile != "" && k.IdentityFile != "":
		return nil, errors.New("--identity-file and --passphrase-file: give one of both")
	case k.PassphraseFile != "":
		passphrase, err := readPassphrase(k.PassphraseFile)
		if err != nil {
			return nil, err
		}
		i, err := age.NewScryptIdentity(passphrase)
		return []age.Identity{i}, err
	}
	f, err := os.Open(k.IdentityFile)
	if err != nil {
		return nil, fmt.Errorf("--identity-file: %w", err)
	}
	defer f.Close()
	all, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("--identity-file: %v", err)
	}
	return all, nil
}
