// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/regular"
)

// Open reads the CA that lives in dir. Only if dir is empty, or does not
// exist, is a new one made: whatever else is found there may be the trace of a
// CA that nodes still trust, so a part of the set is refused, and so is a set
// that does not fit together or has expired.
func Open(dir string, opts Options) (*CA, error) {
	c, err := New(opts)
	if err != nil {
		return nil, err
	}
	if err := c.Load(context.Background(), Directory{Path: dir}); err != nil {
		return nil, err
	}
	return c, nil
}

// Directory is a Store whose CA is files, in any layout. Processes that share it take
// turns by a lock. Files that another hand writes may come in any order: they count
// when they fit together.
//
// A Record that cannot be written there is derived: its generation is the time, in
// seconds, when the file of the roots was last modified.
type Directory struct {
	Path string
	Log  *slog.Logger // says on whom is waited; discards
}

func (d Directory) String() string { return d.Path }

// Read is part of Store. It ends what a process that was killed has begun.
func (d Directory) Read(ctx context.Context) (Files, error) {
	unlock, err := d.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.mend(); err != nil {
		return nil, err
	}
	files, err := d.stored()
	if files != nil && !d.writable() {
		d.derive(files)
	}
	return files, err
}

// Create is part of Store.
func (d Directory) Create(ctx context.Context, files Files) error {
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	switch there, err := d.stored(); {
	case err != nil:
		return err
	case there != nil:
		return ErrExists
	}
	return d.write(files)
}

// Replace is part of Store.
func (d Directory) Replace(ctx context.Context, was, next Files) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !d.writable() {
		return fmt.Errorf("%s: %w", d, ErrReadOnly)
	}
	if err := d.mend(); err != nil {
		return err
	}
	there, err := d.stored()
	if err != nil {
		return err
	}
	if !there.replaceable(was, next) {
		return fmt.Errorf("%s: %w", d, ErrChanged)
	}
	return d.write(next)
}

// stored returns the files, if they are a CA or none are there.
func (d Directory) stored() (Files, error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, err
	}
	var found, strange []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case Known(name):
			found = append(found, name)
		case name == "lost+found": // a freshly made file system
		default:
			strange = append(strange, name)
		}
	}
	if err := d.survey(found, strange); err != nil || len(found) == 0 {
		return nil, err
	}
	if err := d.guarded(); err != nil {
		return nil, err
	}
	return d.readAll(append(found, BundleFile, RekeyFile))
}

// survey says why what is there is no CA, and no place for a new one either.
func (d Directory) survey(found, strange []string) error {
	layout, missing, err := Detect(found)
	switch {
	case err != nil:
		return fmt.Errorf("%s holds only a part of a CA: %v: %s", d, err, restoreIt)
	case len(missing) > 0:
		return fmt.Errorf("%s holds only a part of a CA: there is %s; missing %s: %s",
			d, strings.Join(found, ", "), strings.Join(missing, ", "), restoreIt)
	case layout == "" && slices.Contains(strange, BundleFile):
		return fmt.Errorf("%s holds %s, and so the record of a CA that is not there: %s", d, BundleFile, restoreIt)
	case layout == "" && len(strange) > 0:
		return fmt.Errorf("%s holds no CA, yet is not empty (%s): a new CA is made only in an empty directory",
			d, few(strange))
	}
	return nil
}

// guarded says which files others may replace, and so the CA with them.
func (d Directory) guarded() error {
	defects, err := LintModes(d.Path)
	if err != nil {
		return err
	}
	if refused := errorsOf(defects); refused != nil {
		return fmt.Errorf("%s: %w", d, refused)
	}
	return nil
}

// warnings are what is wrong with the directory, and does not keep the CA from it.
func (d Directory) warnings() []Defect {
	defects, _ := LintModes(d.Path)
	return defects
}

const restoreIt = "restore what is missing from a backup (culvert ca recover); no other CA is made here"

// few is a list of names that stays short.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// readAll returns those of the files that are there.
func (d Directory) readAll(names []string) (Files, error) {
	base := d.Path
	// The kubelet swaps all files of a mount at once, by this link: two of them read
	// through their own links could be of two versions.
	if target, err := os.Readlink(filepath.Join(d.Path, "..data")); err == nil {
		base = filepath.Join(d.Path, filepath.Base(target))
	}
	files := Files{}
	for _, name := range names {
		text, err := regular.ReadFile(filepath.Join(base, name), maxBundle)
		if errors.Is(err, fs.ErrNotExist) {
			text, err = regular.ReadFile(filepath.Join(d.Path, name), maxBundle)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // parse names it, if it is needed
		}
		if err != nil {
			return nil, err
		}
		files[name] = text
	}
	return files, nil
}

// derive makes a Record of the time of the roots' file, unless a kept one is of them.
func (d Directory) derive(files Files) {
	layout, _, _ := Detect(files.names())
	name, roots := of(layout).bundle(files), files.Roots()
	kept, _ := ParseRecord(files[BundleFile])
	info, err := os.Stat(filepath.Join(d.Path, name))
	if err != nil || len(roots) == 0 || kept.Is(roots) {
		return
	}
	generation := max(kept.Generation+1, uint64(max(info.ModTime().Unix(), 1)))
	files[BundleFile] = kept.next(generation, roots).Encode()
}
