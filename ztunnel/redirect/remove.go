// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Remove takes away all that was pinned in dir, which is Options.BPFFS: afterwards
// the kernel steers nothing. It refuses while a netns is steered that is not gone, as
// what runs there would be let out in plaintext, and while a ztunnel runs. A dir that
// is not there is no error.
func Remove(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := LockDir(dir)
	if err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	defer lock.Close()
	all, err := layouts(dir)
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := p.nobodySteered(); err != nil {
			return err
		}
	}
	for _, p := range all {
		if err := p.remove(); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// layouts are the directories of pins below root, of any version.
func layouts(root string) (all []pins, err error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list layouts of pins: %w", err)
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "v")
		version, err := strconv.Atoi(digits)
		if !ok || err != nil {
			return nil, fmt.Errorf("%s is none of ours: it stays, and so does the rest", filepath.Join(root, e.Name()))
		}
		all = append(all, pinsOf(root, version))
	}
	return all, nil
}

// nobodySteered is an error if a netns is steered that may be alive.
func (p pins) nobodySteered() error {
	steered, err := p.adopted()
	if err != nil {
		return err
	}
	living := 0
	for _, cookie := range steered {
		if f, _ := p.fate(cookie); f != gone {
			living++
		}
	}
	if living > 0 {
		return fmt.Errorf("%d pods of this node are steered, and would be let out in plaintext: take them out of the mesh by their labels, while ztunnel runs", living)
	}
	return nil
}
