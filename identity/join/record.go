// SPDX-License-Identifier: Apache-2.0

package join

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// maxRecord bounds what is read as one Record.
const maxRecord = 8 << 10

// Key is the SHA-256 of a public key in DER (SubjectPublicKeyInfo).
type Key [sha256.Size]byte

// KeyOf names a public key.
func KeyOf(public crypto.PublicKey) (Key, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, err
	}
	return sha256.Sum256(der), nil
}

// Record is what is kept of a token, and of the process that redeemed it.
type Record struct {
	ID       string
	Identity spiffeid.ID
	Created  time.Time
	Expires  time.Time // the token can be redeemed until then; the process has no such end
	Redeemed bool
	By       Key       // that redeemed it
	At       time.Time // when it was redeemed

	hash [sha256.Size]byte
}

// Options says what token is wanted.
type Options struct {
	Identity spiffeid.ID   // required
	TTL      time.Duration // in which it can be redeemed, MinTTL to MaxTTL; required
}

func (o Options) issue(now time.Time) (Token, Record, error) {
	if _, err := identity.Parse(o.Identity); err != nil {
		return Token{}, Record{}, err
	}
	if o.TTL < MinTTL || o.TTL > MaxTTL {
		return Token{}, Record{}, fmt.Errorf("the TTL of a join token is %v, want %v to %v", o.TTL, MinTTL, MaxTTL)
	}
	token, err := newToken()
	if err != nil {
		return Token{}, Record{}, err
	}
	now = now.UTC().Truncate(time.Second)
	return token, Record{ID: token.ID, Identity: o.Identity, Created: now, Expires: now.Add(o.TTL), hash: token.hash()}, nil
}

func (r Record) expired(now time.Time) bool { return !now.Before(r.Expires) }

// Admit is why the bearer of the token may not redeem it, or nil. It is asked of the
// Record as it was found; Store.Redeem alone decides who was first.
func (r Record) Admit(token Token, now time.Time) error {
	want, got := r.hash, token.hash()
	switch {
	case r.ID != token.ID:
		return ErrUnknown
	case subtle.ConstantTimeCompare(want[:], got[:]) != 1:
		return ErrWrong
	case r.expired(now):
		return fmt.Errorf("%w on %s", ErrExpired, r.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// redeem is the Record once a key has redeemed it.
func (r Record) redeem(key Key, now time.Time) (Record, error) {
	switch {
	case r.Redeemed && r.By == key:
		return r, nil
	case r.Redeemed:
		return r, ErrRedeemed
	}
	r.Redeemed, r.By, r.At = true, key, now.UTC().Truncate(time.Second)
	return r, nil
}

// record is a Record in JSON.
type record struct {
	Version    int       `json:"version"`
	ID         string    `json:"id"`
	Identity   string    `json:"identity"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	SecretHash string    `json:"secret_sha256"`
}

// redemption is what is added to it once.
type redemption struct {
	Key string    `json:"key_sha256"`
	At  time.Time `json:"at"`
}

// version is that of the format. An older CA refuses a newer one.
const version = 1

func (r Record) encode() ([]byte, error) {
	return json.Marshal(record{version, r.ID, r.Identity.String(), r.Created, r.Expires, hex.EncodeToString(r.hash[:])})
}

func (r Record) encodeRedemption() ([]byte, error) {
	return json.Marshal(redemption{hex.EncodeToString(r.By[:]), r.At})
}

// decode reads a Record, which must be of that ID.
func decode(id string, text []byte) (Record, error) {
	var in record
	if err := strict(text, &in); err != nil {
		return Record{}, fmt.Errorf("join token %s: %v", id, err)
	}
	problem := func(format string, args ...any) (Record, error) {
		return Record{}, fmt.Errorf("join token %s: %s", id, fmt.Sprintf(format, args...))
	}
	if in.Version != version {
		return problem("version: %d, want %d", in.Version, version)
	}
	if in.ID != id {
		return problem("id: %.64q", in.ID)
	}
	r := Record{ID: id, Created: in.Created, Expires: in.Expires}
	var err error
	if r.Identity, err = spiffeid.FromString(in.Identity); err == nil {
		_, err = identity.Parse(r.Identity)
	}
	if err != nil {
		return problem("identity: %v", err)
	}
	if in.Expires.IsZero() || in.Expires.Sub(in.Created) > MaxTTL {
		return problem("expires: it is redeemable for more than %v", MaxTTL)
	}
	if err := unhex(r.hash[:], in.SecretHash); err != nil {
		return problem("secret_sha256: %v", err)
	}
	return r, nil
}

// decodeRedemption completes a Record.
func decodeRedemption(r Record, text []byte) (Record, error) {
	var in redemption
	err := strict(text, &in)
	if err == nil {
		err = unhex(r.By[:], in.Key)
	}
	if err != nil {
		return Record{}, fmt.Errorf("redemption of the join token %s: %v", r.ID, err)
	}
	r.Redeemed, r.At = true, in.At
	return r, nil
}

// strict reads JSON as this version writes it.
func strict(text []byte, into any) error {
	if len(text) > maxRecord {
		return fmt.Errorf("longer than %d bytes", maxRecord)
	}
	if len(text) == 0 {
		return errors.New("empty")
	}
	return json.Unmarshal(text, into)
}

func unhex(into []byte, text string) error {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(into) {
		return fmt.Errorf("want %d bytes in hexadecimal", len(into))
	}
	copy(into, raw)
	return nil
}
