// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/regular"
)

// The files of a Directory.
const (
	recordFile   = ".json"     // ID.json: the token
	redeemedFile = ".redeemed" // ID.redeemed: which key redeemed it
	stagedFile   = ".new-"     // followed by random digits: one that is being written
)

const (
	// staleAfter is how old a staged file is whose writer was killed.
	staleAfter = time.Hour
	// orphanAfter is how long a redemption stays whose token is gone: as long as that token
	// could be redeemed by any replica's clock, if it came back from a backup.
	orphanAfter = MaxTTL + pruneAfter
)

// Directory is a Store of files. Its name is a path. Who may write there may have any
// identity, so it must be the CA's alone.
//
// A file is written under another name, synced, and then linked to its own: link(2)
// fails if that name is taken, so that one of two redemptions wins, and a file that has
// its name is complete, whoever is killed.
type Directory string

func (d Directory) String() string { return string(d) }

// Check is why the CA cannot keep join tokens there, or nil. It makes the directory if
// there is none, and sweeps it.
func (d Directory) Check() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	st, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s has the mode %04o, and who may write there may have any identity: make it 0700", d, st.Mode().Perm())
	}
	return d.sweep(time.Now())
}

// sweep removes what writers that were killed have left, and redemptions whose token was
// removed while it was redeemed.
func (d Directory) sweep(now time.Time) error {
	entries, err := os.ReadDir(string(d))
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue // removed meanwhile
		}
		id, redemption := strings.CutSuffix(entry.Name(), redeemedFile)
		stale := strings.HasPrefix(entry.Name(), stagedFile) && now.Sub(info.ModTime()) > staleAfter
		if stale || redemption && now.Sub(d.changed(info)) > orphanAfter && d.lacks(id) {
			os.Remove(filepath.Join(string(d), entry.Name()))
		}
	}
	return err
}

// changed is when a file got the name that it has, at the latest. Its contents may be older:
// it may have come from a backup.
func (d Directory) changed(info fs.FileInfo) time.Time {
	at, err := regular.Changed(filepath.Join(string(d), info.Name()))
	if err != nil {
		return time.Now() // removed meanwhile, or not to be judged
	}
	return at
}

// lacks reports whether there is certainly no Record of that ID.
func (d Directory) lacks(id string) bool {
	if checkID(id) != nil {
		return false // not ours
	}
	_, err := os.Lstat(filepath.Join(string(d), id+recordFile))
	return errors.Is(err, fs.ErrNotExist)
}

// Add is part of Store.
func (d Directory) Add(_ context.Context, r Record) error {
	text, err := r.encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	if err := d.write(r.ID+recordFile, text); err != nil {
		return err
	}
	_ = d.sweep(time.Now()) // the next writer tries again
	return nil
}

// Find is part of Store.
func (d Directory) Find(_ context.Context, id string) (Record, error) {
	if err := checkID(id); err != nil {
		return Record{}, ErrUnknown
	}
	text, err := d.read(id + recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, ErrUnknown
	}
	if err != nil {
		return Record{}, err
	}
	r, err := decode(id, text)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", d, err)
	}
	text, err = d.read(id + redeemedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return Record{}, err
	}
	if r, err = decodeRedemption(r, text); err != nil {
		return Record{}, fmt.Errorf("%s: %w", d, err)
	}
	return r, nil
}

// Redeem is part of Store.
func (d Directory) Redeem(ctx context.Context, id string, key Key) error {
	for ctx.Err() == nil {
		found, err := d.Find(ctx, id)
		if err != nil {
			return err
		}
		r, err := found.redeem(key, time.Now())
		if err != nil || found.Redeemed {
			return err
		}
		text, err := r.encodeRedemption()
		if err != nil {
			return err
		}
		// Written or not, what is there now decides: another key may have been faster,
		// or the token may have been revoked.
		if err := d.write(id+redeemedFile, text); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return ctx.Err()
}

// List is part of Store. Beside its error it returns the Records that it could read.
func (d Directory) List(ctx context.Context) ([]Record, error) {
	entries, err := os.ReadDir(string(d)) // by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Record
	var problems []error
	for _, entry := range entries {
		id, is := strings.CutSuffix(entry.Name(), recordFile)
		if !is {
			continue
		}
		r, err := d.Find(ctx, id)
		if errors.Is(err, ErrUnknown) { // removed meanwhile, or not ours
			continue
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(problems...)
}

// Remove is part of Store. The token goes before its redemption: if this process is
// killed between the two, nobody can redeem it again.
func (d Directory) Remove(_ context.Context, id string) error {
	if err := checkID(id); err != nil {
		return ErrUnknown
	}
	err := os.Remove(filepath.Join(string(d), id+recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(string(d), id+redeemedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = d.sweep(time.Now()) // the next writer tries again
	return d.sync()
}

func (d Directory) read(name string) ([]byte, error) {
	text, err := regular.ReadFile(filepath.Join(string(d), name), maxRecord)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: make the directory and its files those of the user that the CA runs as", err)
	}
	return text, err
}

// write makes a file that is not there yet, whole, and on disk when it returns.
func (d Directory) write(name string, text []byte) error {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	staged := filepath.Join(string(d), stagedFile+hex.EncodeToString(random[:]))
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(staged)
	_, err = f.Write(text)
	if err := errors.Join(err, d.own(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(staged, filepath.Join(string(d), name)); err != nil {
		return err
	}
	return d.sync()
}

// own gives a file that root makes to the owner of the directory: an operator who makes a
// token is not the user that the CA runs as.
func (d Directory) own(f *os.File) error {
	dir, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	return regular.GiveTo(f, dir)
}

func (d Directory) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
