// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxAnchor bounds the text of a checkpoint.
const maxAnchor = 64 << 10

// AnchorDir is an Anchorage in a directory, which should be of another host: that of a mount,
// for instance. Each text is a file.
type AnchorDir struct {
	path string
	busy chan struct{} // holds one while the file system has not answered
}

// NewAnchorDir returns the one in the directory of that path. It does not look at it.
func NewAnchorDir(path string) *AnchorDir {
	return &AnchorDir{path, make(chan struct{}, 1)}
}

// errMountHangs is why a directory is not asked again.
var errMountHangs = errors.New("the file system does not answer")

// within does something to the directory. A file system that hangs keeps nobody waiting.
func (d *AnchorDir) within(ctx context.Context, do func() error) error {
	select {
	case d.busy <- struct{}{}:
	default:
		return fmt.Errorf("%s: %w", d.path, errMountHangs)
	}
	done := make(chan error, 1)
	go func() {
		err := do()
		<-d.busy
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", d.path, errMountHangs)
	}
}

// All is part of Anchorage.
func (d *AnchorDir) All(ctx context.Context) (map[string][]byte, error) {
	var all map[string][]byte
	err := d.within(ctx, func() (err error) {
		all, err = readTexts(d.path)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func readTexts(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, entry := range entries {
		if !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // another replica has dropped it
		}
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(f, maxAnchor))
		f.Close()
		if err != nil {
			return nil, err
		}
		all[entry.Name()] = text
	}
	return all, nil
}

// Put is part of Anchorage. Whoever reads a text meanwhile finds the former one or the next.
func (d *AnchorDir) Put(ctx context.Context, texts map[string][]byte) error {
	return d.within(ctx, func() error {
		var problems []error
		for name, text := range texts {
			path := filepath.Join(d.path, filepath.Base(name))
			if text == nil {
				if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
					problems = append(problems, err)
				}
				continue
			}
			problems = append(problems, replaceFile(path, text))
		}
		syncDirectory(d.path)
		return errors.Join(problems...)
	})
}

// replaceFile has the file be on disk before it has its name.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".next-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
