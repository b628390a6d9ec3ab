// SPDX-License-Identifier: Apache-2.0

package join

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Prefix begins every join token. No other token that the CA takes begins so.
const Prefix = "culvert-join."

const (
	idBytes     = 8
	secretBytes = 32
	tokenLength = len(Prefix) + 2*idBytes + 1 + (secretBytes*8+5)/6
)

// Token is what an operator hands to a process: culvert-join.<ID>.<secret>. Whoever has
// it has the identity, until it is redeemed.
type Token struct {
	ID     string
	secret [secretBytes]byte
}

// Text is the token, secret and all. There is no String: a Token that is logged by
// mistake shows no secret.
func (t Token) Text() string {
	return Prefix + t.ID + "." + base64.RawURLEncoding.EncodeToString(t.secret[:])
}

// Format keeps the secret out of every verb of fmt.
func (t Token) Format(s fmt.State, _ rune) { fmt.Fprint(s, Prefix+t.ID+".…") }

// IsToken reports whether a text means to be a join token.
func IsToken(text string) bool { return strings.HasPrefix(text, Prefix) }

// Parse reads what Text wrote. No error quotes the text.
func Parse(text string) (Token, error) {
	if !IsToken(text) {
		return Token{}, fmt.Errorf("it does not begin with %q", Prefix)
	}
	if len(text) != tokenLength {
		return Token{}, fmt.Errorf("it is %d characters long, want %d", len(text), tokenLength)
	}
	id, secret, found := strings.Cut(text[len(Prefix):], ".")
	if !found {
		return Token{}, errors.New("want " + Prefix + "ID.SECRET")
	}
	if err := checkID(id); err != nil {
		return Token{}, err
	}
	t := Token{ID: id}
	// Strict: one secret has one text.
	if n, err := base64.RawURLEncoding.Strict().Decode(t.secret[:], []byte(secret)); err != nil || n != secretBytes {
		return Token{}, errors.New("its secret is not base64 of 32 bytes")
	}
	return t, nil
}

// checkID admits nothing but lower-case hexadecimal, so that an ID is a file name, a
// key of a Secret and a name in a certificate.
func checkID(id string) error {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != idBytes || id != strings.ToLower(id) {
		return fmt.Errorf("the ID of a join token is %d lower-case hexadecimal digits", 2*idBytes)
	}
	return nil
}

func newToken() (Token, error) {
	var id [idBytes]byte
	var t Token
	for _, b := range [][]byte{id[:], t.secret[:]} {
		if _, err := rand.Read(b); err != nil {
			return Token{}, fmt.Errorf("draw a join token: %v", err)
		}
	}
	t.ID = hex.EncodeToString(id[:])
	return t, nil
}

// hash is what is kept of the secret. The secret is 256 random bits, so that no slow
// hash is needed to keep it from being guessed.
func (t Token) hash() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }
