// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

var batch = spiffeid.RequireFromString("spiffe://cluster.local/ns/legacy/sa/batch")

func create(t testing.TB, store Store) Token {
	t.Helper()
	token, _, err := Create(t.Context(), store, Options{Identity: batch, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenIsReadAsItWasWritten(t *testing.T) {
	token, err := newToken()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(token.Text()); err != nil || again != token {
		t.Errorf("Parse(Text()) = %v, %v", again, err)
	}
}

func TestWhatIsNoTokenIsRefusedWithoutQuotingIt(t *testing.T) {
	token, err := newToken()
	if err != nil {
		t.Fatal(err)
	}
	good := token.Text()
	secret := good[len(good)-43:]
	for name, text := range map[string]string{
		"empty":            "",
		"another prefix":   strings.Replace(good, "culvert", "Culvert", 1),
		"too short":        good[:len(good)-1],
		"too long":         good + "A",
		"a space behind":   good[:len(good)-1] + " ",
		"no second dot":    strings.Replace(good, token.ID+".", token.ID+"-", 1),
		"capital ID":       Prefix + "ABCDEF0123456789." + secret,
		"ID of no digits":  Prefix + "................"[:15] + "x." + secret,
		"path as ID":       Prefix + "../../../../../." + "." + secret[1:],
		"standard base64":  good[:len(good)-43] + strings.Repeat("+", 43),
		"bits left over":   good[:len(good)-1] + "B",
		"a JSON Web Token": "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
	} {
		_, err := Parse(text)
		if err == nil {
			t.Errorf("%s: %q is a token", name, text)
		} else if strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
}

// A002-11: a token that is logged by mistake shows no secret.
func TestNoVerbPrintsTheSecret(t *testing.T) {
	token, err := newToken()
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Text()[len(token.Text())-43:]
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token, "in", struct{ T Token }{token})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token, "in", struct{ T Token }{token})
	fmt.Fprintf(&log, "%v %+v %#v %s %q %x %d", token, token, token, token, token, token, token)
	for _, leak := range []string{secret, fmt.Sprintf("%x", token.secret), fmt.Sprintf("%d", token.secret[0:4])} {
		if strings.Contains(log.String(), leak) {
			t.Errorf("%s shows %s", log.String(), leak)
		}
	}
}

func TestATokenIsForAWorkloadAndForAWhile(t *testing.T) {
	for name, o := range map[string]Options{
		"no identity":   {TTL: time.Hour},
		"no workload":   {Identity: spiffeid.RequireFromString("spiffe://cluster.local/vm/1"), TTL: time.Hour},
		"no TTL":        {Identity: batch},
		"a moment":      {Identity: batch, TTL: MinTTL - 1},
		"for ever":      {Identity: batch, TTL: MaxTTL + 1},
		"negative time": {Identity: batch, TTL: -time.Hour},
	} {
		if _, _, err := Create(t.Context(), Directory(t.TempDir()), o); err == nil {
			t.Errorf("%s: a token was made", name)
		}
	}
}

func TestNoSecretIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	token := create(t, Directory(dir))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, leak := range []string{token.Text()[len(token.Text())-43:], fmt.Sprintf("%x", token.secret)} {
		if strings.Contains(string(text), leak) {
			t.Errorf("%s holds the secret", text)
		}
	}
}

func TestADirectoryThatOthersMayWriteToIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "join")
	if err := Directory(dir).Check(); err != nil {
		t.Errorf("one that is not there yet: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Directory(dir).Check(); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "0777") {
		t.Errorf("0777: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Directory(file).Check(); err == nil {
		t.Error("a file is taken for a directory")
	}
	if err := Directory(file).Redeem(t.Context(), "0123456789abcdef", Key{}); err == nil {
		t.Error("redeemed in a file")
	}
}

// A writer that was killed leaves a staged file: no name of a token has half a content.
func TestAWriterThatIsKilledLeavesNothingToRedeem(t *testing.T) {
	dir := t.TempDir()
	token := create(t, Directory(dir))
	half := filepath.Join(dir, stagedFile+"0011223344556677")
	if err := os.WriteFile(half, []byte(`{"key_sha`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Directory(dir).Find(t.Context(), token.ID); err != nil || r.Redeemed {
		t.Errorf("found %+v, %v", r, err)
	}
	if err := Directory(dir).Redeem(t.Context(), token.ID, Key{1}); err != nil {
		t.Error(err)
	}
	if err := Directory(dir).Check(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("a file that may still be written is gone: %v", err)
	}
	if err := os.Chtimes(half, time.Time{}, time.Now().Add(-2*staleAfter)); err != nil {
		t.Fatal(err)
	}
	if err := Directory(dir).Check(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("the staged file stays: %v", err)
	}
}

// A token that is revoked while it is redeemed, or whose remover is killed, leaves its
// redemption. That goes, but not while the token could come back and be redeemed again.
func TestARedemptionOfNoTokenGoesWhenTheTokensLifeIsOver(t *testing.T) {
	d := Directory(t.TempDir())
	orphan, process := create(t, d), create(t, d)
	for _, token := range []Token{orphan, process} {
		if err := d.Redeem(t.Context(), token.ID, Key{1}); err != nil {
			t.Fatal(err)
		}
	}
	record, redemption := filepath.Join(string(d), orphan.ID+recordFile), filepath.Join(string(d), orphan.ID+redeemedFile)
	backup, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(string(d), "notes"+redeemedFile)
	if err := errors.Join(os.Remove(record), os.WriteFile(foreign, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	// Its contents are old, as those of a file from a backup: that it is here is not.
	if err := os.Chtimes(redemption, time.Time{}, time.Now().Add(-2*orphanAfter)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Check(), d.sweep(time.Now().Add(orphanAfter-time.Minute))); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(record, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Redeem(t.Context(), orphan.ID, Key{2}); !errors.Is(err, ErrRedeemed) {
		t.Errorf("the token came back, and another key redeems it: %v", err)
	}
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if err := d.sweep(time.Now().Add(orphanAfter + time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(redemption); !os.IsNotExist(err) {
		t.Errorf("the redemption stays: %v", err)
	}
	if r, err := d.Find(t.Context(), process.ID); err != nil || !r.Redeemed || r.By != (Key{1}) {
		t.Errorf("the process is now %+v, %v", r, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("a file that is not ours: %v", err)
	}
}

// Whoever writes sweeps: a CA may run for years.
func TestEveryWriterSweeps(t *testing.T) {
	d := Directory(t.TempDir())
	token := create(t, d)
	for name, write := range map[string]func() error{
		"check":  d.Check,
		"add":    func() error { create(t, d); return nil },
		"remove": func() error { return d.Remove(t.Context(), token.ID) },
	} {
		half := filepath.Join(string(d), stagedFile+"0011223344556677")
		err := errors.Join(os.WriteFile(half, nil, 0o600), os.Chtimes(half, time.Time{}, time.Now().Add(-2*staleAfter)), write())
		if _, gone := os.Stat(half); err != nil || !os.IsNotExist(gone) {
			t.Errorf("%s: %v, and what a killed writer left is there: %v", name, err, gone)
		}
	}
}

// Whatever a file holds that is not what we wrote, nobody joins by it.
func TestAFileThatIsNotUnderstoodAdmitsNobody(t *testing.T) {
	dir := t.TempDir()
	good := create(t, Directory(dir))
	text, err := os.ReadFile(filepath.Join(dir, good.ID+recordFile))
	if err != nil {
		t.Fatal(err)
	}
	const id = "00000000000000ff"
	own := strings.Replace(string(text), good.ID, id, 1)
	for name, spoilt := range map[string]string{
		"empty":           "",
		"half":            own[:len(own)/2],
		"another's":       string(text),
		"a later version": strings.Replace(own, `"version":1`, `"version":2`, 1),
		"no identity":     strings.Replace(own, batch.String(), "", 1),
		"no workload":     strings.Replace(own, "/ns/legacy/sa/batch", "/x", 1),
		"for ever":        strings.Replace(own, `"expires":"20`, `"expires":"29`, 1),
		"no expiry":       strings.Replace(own, `"expires"`, `"expired"`, 1),
		"half a hash":     strings.Replace(own, `"secret_sha256":"`, `"secret_sha256":"00`, 1),
		"huge":            own + strings.Repeat(" ", maxRecord),
	} {
		path := filepath.Join(dir, id+recordFile)
		if err := os.WriteFile(path, []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Directory(dir).Find(t.Context(), id); err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v", name, err)
		}
		if all, err := Directory(dir).List(t.Context()); err == nil || len(all) != 1 || all[0].ID != good.ID {
			t.Errorf("%s: the others are listed as %v, %v", name, all, err)
		}
	}
	redeemed := filepath.Join(dir, good.ID+redeemedFile)
	if err := os.WriteFile(redeemed, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Directory(dir).Redeem(t.Context(), good.ID, Key{}); err == nil {
		t.Error("redeemed although nobody knows by whom it was")
	}
}

func TestTooManyTokensAreRefused(t *testing.T) {
	d := Directory(t.TempDir())
	now := time.Now()
	for i := range maxRecords {
		text, err := Record{ID: fmt.Sprintf("%016x", i), Identity: batch, Created: now, Expires: now.Add(time.Hour)}.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(string(d), fmt.Sprintf("%016x", i)+recordFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Create(t.Context(), d, Options{Identity: batch, TTL: time.Hour}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("one more: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(Prefix + "0123456789abcdef." + strings.Repeat("A", 43))
	f.Add(Prefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err == nil && token.Text() != text {
			t.Fatalf("%q is read as %q", text, token.Text())
		}
	})
}

func FuzzRecord(f *testing.F) {
	r := Record{ID: "0123456789abcdef", Identity: batch, Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	text, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decode("0123456789abcdef", text)
		if err != nil {
			return
		}
		if r.Identity.IsZero() || r.Expires.IsZero() {
			t.Fatalf("read %+v", r)
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := decode("0123456789abcdef", again); err != nil || !same.Expires.Equal(r.Expires) || same.Identity != r.Identity || same.hash != r.hash {
			t.Fatalf("%+v is written as %+v, %v", r, same, err)
		}
	})
}

// late is a Directory in which a process joins between List and what follows it.
type late struct {
	Directory
	id string
}

func (l late) List(ctx context.Context) ([]Record, error) {
	all, err := l.Directory.List(ctx)
	return all, errors.Join(err, l.Redeem(ctx, l.id, Key{1}))
}

func TestPruningTakesNoProcess(t *testing.T) {
	d := Directory(t.TempDir())
	for id, ago := range map[string]time.Duration{"00000000000000a1": time.Minute, "00000000000000a2": 2 * time.Hour, "00000000000000a3": 2 * time.Hour} {
		expires := time.Now().Add(-ago)
		if err := d.Add(t.Context(), Record{ID: id, Identity: batch, Created: expires.Add(-time.Hour), Expires: expires}); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(t.Context(), late{d, "00000000000000a2"}); err != nil {
		t.Fatal(err)
	}
	left, err := d.List(t.Context())
	if err != nil || len(left) != 2 || left[0].ID != "00000000000000a1" || left[1].ID != "00000000000000a2" {
		t.Errorf("%v, %v: want the one that expired just now, and the one that joined", left, err)
	}
}
