// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Removal is what to take away, and from where.
type Removal struct {
	Config
	CacheDir string        // where libcni and Multus keep what a sandbox was started with; required, absolute, there
	Grace    time.Duration // for runtimes to read the lists anew, before the program goes; 6 s
}

// grace is longer than the slowest runtime needs: cri-dockerd looks every 5 s,
// containerd and CRI-O watch the directory.
const grace = 6 * time.Second

// passes is how often the lists are gone through. One is for the lists, one sees
// that nobody put the entry back: Multus makes its config of another's, and may
// have read that before.
const passes = 5

// Uninstall takes the plugin's entry out of all lists, and then its program away,
// unless a sandbox was started with the plugin and is still there: CRI-O and
// Multus end it with the list of then, and cannot without the program. It is
// refused while an installer runs, which would put all back.
func Uninstall(ctx context.Context, r Removal) error {
	entry, err := r.entry()
	if err := errors.Join(err, directories([2]string{"conf-dir", r.ConfDir}, [2]string{"bin-dir", r.BinDir}, [2]string{"cache-dir", r.CacheDir})); err != nil {
		return err
	}
	r.setDefaults()
	mine, err := lock(r.ConfDir)
	if err != nil {
		return err
	}
	defer mine.Close()
	for range passes {
		changed, err := r.lists(entry)
		if err != nil {
			return fmt.Errorf("%w; the program stays, for a list may name it", err)
		}
		if !changed {
			return r.program(entry)
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("another program puts the plugin back into a list of %s again and again; the program stays", r.ConfDir)
}

func (r *Removal) setDefaults() {
	r.Config.setDefaults()
	if r.Grace <= 0 {
		r.Grace = grace
	}
}

// wait lets runtimes read the lists anew.
func (r Removal) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("interrupted: the lists are without the plugin, its program is still in %s", r.BinDir)
	case <-time.After(r.Grace):
		return nil
	}
}

// lists cuts the entry out of every file in which it may stand, and removes ours.
func (r Removal) lists(e entry) (changed bool, err error) {
	files, err := configs(r.ConfDir)
	if err != nil {
		return false, err
	}
	renamed, err := filepath.Glob(filepath.Join(r.ConfDir, "*"+ciliumSuffix))
	if err != nil {
		return false, err
	}
	for _, path := range renamed {
		files = append(files, filepath.Base(path))
	}
	var errs []error
	for _, file := range files {
		did, err := r.list(e, file)
		changed = changed || did
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// list cuts the entry out of one file. A file that cannot be understood is an
// error only if it may name the plugin.
func (r Removal) list(e entry, file string) (changed bool, err error) {
	path := filepath.Join(r.ConfDir, file)
	if strings.HasSuffix(strings.TrimSuffix(file, ciliumSuffix), oursSuffix) {
		if err := os.Remove(path); err != nil {
			return false, fmt.Errorf("remove %s: %w", path, cause(err))
		}
		r.Log.Info("removed the list of ours", logFile, path)
		return true, syncDir(r.ConfDir)
	}
	for {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Contains(data, []byte(e.name)) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !json.Valid(data) {
			return false, fmt.Errorf("%s names %s and is half written or no JSON", path, e.name)
		}
		without, err := e.unchain(data)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		if bytes.Equal(without, data) {
			return false, nil
		}
		switch err := replace(path, data, without); {
		case errors.Is(err, errChanged):
			continue
		case err != nil:
			return false, fmt.Errorf("write %s: %w", path, cause(err))
		}
		r.Log.Info("the plugin is out of the list of plugins", logFile, path)
		return true, nil
	}
}

// program removes the program, or says why it stays.
func (r Removal) program(e entry) error {
	b := binary{to: filepath.Join(r.BinDir, e.name)}
	pods, err := r.sandboxes(e)
	if err != nil {
		return fmt.Errorf("cache-dir: %w; the program stays, for a sandbox may need it", err)
	}
	if pods > 0 {
		r.Log.Warn("the program stays: sandboxes that were started with the plugin may need it to end, and no list names it; once they have ended, culvert-cni uninstall removes it",
			logFile, b.to, logPods, pods)
		return nil
	}
	removed, err := b.remove()
	if err := errors.Join(err, tidy(r.ConfDir), tidy(r.BinDir)); err != nil {
		return fmt.Errorf("remove %s: %w", b.to, cause(err))
	}
	if removed {
		r.Log.Info("the plugin's program is gone", logFile, b.to)
	}
	return nil
}

// sandboxes counts those whose cached config names the plugin.
func (r Removal) sandboxes(e entry) (count int, err error) {
	for _, of := range []string{"results", "multus"} { // libcni's, Multus's
		err := filepath.WalkDir(filepath.Join(r.CacheDir, of), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // never was, or its sandbox has just ended
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && mentions(data, e.name) {
				count++
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return count, nil
}

// mentions reports whether JSON has a text with name in it, in plain or, as Go
// writes bytes, in base64.
func mentions(data []byte, name string) bool {
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		plain, ok := token.(string)
		if !ok {
			continue
		}
		decoded, _ := base64.StdEncoding.DecodeString(plain)
		if strings.Contains(plain, name) || bytes.Contains(decoded, []byte(name)) {
			return true
		}
	}
}
