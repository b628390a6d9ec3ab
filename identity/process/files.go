// SPDX-License-Identifier: Apache-2.0

package process

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/flock"
	"github.com/culvert-mesh/culvert/regular"
)

// Names of the files.
const (
	CertFile   = "svid.pem"
	KeyFile    = "svid.key"
	BundleFile = "bundle.pem"
)

const (
	// pendingFile holds the key with which a token is redeemed, from before the CA is
	// asked: if the answer is lost, the same key may ask again.
	pendingFile = ".pending.key"
	// dataLink leads to the directory of the set in force, as in a volume of Kubernetes:
	// to change it is one step, so that key and certificate always fit.
	dataLink  = "..data"
	setPrefix = "..set-"

	maxFile = 1 << 20
)

var setFiles = []string{CertFile, KeyFile, BundleFile}

// directory is where the files are. It is locked: two that renew one identity would
// take it from each other.
type directory struct {
	path string
	lock *os.File
	sync func(path string) error // puts a directory's names on disk; syncDir
}

func openDirectory(path string) (*directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock.Try(lock); err != nil {
		lock.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("lock %s: another process keeps an identity there", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &directory{path, lock, syncDir}, nil
}

func (d *directory) close() { d.lock.Close() }

func (d *directory) name(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

// read returns the set in force, or nil if there is none.
func (d *directory) read() (*svid, error) {
	content := map[string][]byte{}
	for _, name := range setFiles {
		text, err := regular.ReadFile(d.name(dataLink, name), maxFile)
		if errors.Is(err, fs.ErrNotExist) && len(content) == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		content[name] = text
	}
	s, err := parseSet(content)
	if err != nil {
		return nil, fmt.Errorf("what an earlier run left in %s: %w; if it cannot be restored, remove it and join by a new token", d.path, err)
	}
	return s, nil
}

// parseSet takes one that has expired, too: the caller says so.
func parseSet(content map[string][]byte) (*svid, error) {
	key, err := parseKey(content[KeyFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %v", KeyFile, err)
	}
	chain, err := parseCerts(content[CertFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %v", CertFile, err)
	}
	roots, err := parseCerts(content[BundleFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %v", BundleFile, err)
	}
	return newSVID(key, chain, roots, chain[0].NotBefore)
}

// write puts a set in force: all of it, or nothing.
func (d *directory) write(s *svid) error {
	key, err := encodeKey(s.key)
	if err != nil {
		return err
	}
	set := setPrefix + random()
	if err := os.Mkdir(d.name(set), 0o700); err != nil {
		return err
	}
	content := map[string][]byte{CertFile: encodeCerts(s.chain), KeyFile: key, BundleFile: encodeCerts(s.roots)}
	for _, name := range setFiles {
		if err := writeSynced(d.name(set, name), content[name]); err != nil {
			return errors.Join(err, os.RemoveAll(d.name(set)))
		}
	}
	if err := d.enforce(set); err != nil { // the former set is in force
		return errors.Join(err, os.RemoveAll(d.name(set)))
	}
	// The former set goes only once the disk has the link to its successor.
	if err := d.sync(d.path); err != nil {
		return err
	}
	d.clean(set)
	return d.sync(d.path)
}

// enforce leads all names to a set. The names lead nowhere until the last step of the
// first time, so that a program that waits for one of them finds the others too.
func (d *directory) enforce(set string) error {
	if err := d.sync(d.name(set)); err != nil {
		return err
	}
	for _, name := range setFiles {
		target := filepath.Join(dataLink, name)
		if now, err := os.Readlink(d.name(name)); err == nil && now == target {
			continue
		}
		if err := d.link(target, name); err != nil {
			return err
		}
	}
	return d.link(set, dataLink)
}

// link makes or replaces a symbolic link in one step.
func (d *directory) link(target, name string) error {
	staged := d.name(setPrefix + "link-" + random())
	if err := os.Symlink(target, staged); err != nil {
		return err
	}
	if err := os.Rename(staged, d.name(name)); err != nil {
		return errors.Join(err, os.Remove(staged))
	}
	return nil
}

// clean removes former sets, and the key that has redeemed the token: its certificate
// is in force. Whoever has opened a file of a former set can read it to its end.
func (d *directory) clean(keep string) {
	os.Remove(d.name(pendingFile))
	entries, _ := os.ReadDir(d.path)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), setPrefix) && entry.Name() != keep {
			os.RemoveAll(d.name(entry.Name()))
		}
	}
}

// pendingKey is the key to join with: that of an attempt whose answer was lost, or a new
// one, which is on disk when this returns.
func (d *directory) pendingKey() (*ecdsa.PrivateKey, error) {
	if text, err := regular.ReadFile(d.name(pendingFile), maxFile); err == nil {
		if key, err := parseKey(text); err == nil {
			return key, nil
		}
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	staged := d.name(setPrefix + "key-" + random())
	if err := writeSynced(staged, text); err != nil {
		return nil, errors.Join(err, os.Remove(staged))
	}
	if err := os.Rename(staged, d.name(pendingFile)); err != nil {
		return nil, errors.Join(err, os.Remove(staged))
	}
	return key, d.sync(d.path)
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return time.Now().UTC().Format("20060102T150405Z-") + hex.EncodeToString(b[:])
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
