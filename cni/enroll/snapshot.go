// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/unixsocket"
)

const maxSnapshot = 8 << 20 // some 60,000 namespaces

// Snapshot is what ztunnel knew last, for the plugin to decide by while no
// ztunnel answers. ztunnel writes it before it first serves the enroll socket
// and whenever it changes. It has no age at which it is too old: namespaces that
// appeared since are not in AllNamespaces, and wait. One that was there and is
// labelled only while ztunnel is away passes; its pods are enrolled afterwards.
type Snapshot struct {
	Generation uint64    `json:"generation"` // counts up with every write
	Written    time.Time `json:"written"`

	// MeshedNamespaces are those in which a pod may be in the mesh: labelled,
	// or with a pod in them whose own label says so. Required, may be empty.
	MeshedNamespaces []string `json:"meshedNamespaces"`
	// AllNamespaces are those that existed, meshed ones included. One that is
	// missing is new and may be labelled, so its pods wait for ztunnel.
	AllNamespaces []string `json:"allNamespaces"`

	OwnPod Pod `json:"ownPod"` // ztunnel's own, if it runs in one; zero: none
}

// Pod names a pod; the UID is what two pods of one name differ by.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// IsNamed reports whether namespace and name are such as Kubernetes has.
func (p Pod) IsNamed() bool {
	return dnsLabel.MatchString(p.Namespace) && dnsSubdomain.MatchString(p.Name)
}

func (s Snapshot) validate() error {
	if s.MeshedNamespaces == nil || s.AllNamespaces == nil {
		return errors.New("meshedNamespaces and allNamespaces are required, and may be empty")
	}
	known := make(map[string]bool, len(s.AllNamespaces))
	for _, ns := range s.AllNamespaces {
		known[ns] = true
	}
	for _, ns := range s.MeshedNamespaces {
		if !known[ns] {
			return fmt.Errorf("meshedNamespaces: %q is not in allNamespaces", ns)
		}
	}
	return nil
}

// WriteSnapshot replaces the snapshot at path, readable by its owner only. If
// that fails, on a full disk say, the old one is still there, whole.
func WriteSnapshot(path string, s Snapshot) error {
	if s.MeshedNamespaces == nil {
		s.MeshedNamespaces = []string{}
	}
	if s.AllNamespaces == nil {
		s.AllNamespaces = []string{}
	}
	if err := s.validate(); err != nil {
		return fmt.Errorf("write snapshot %s: %v", path, err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := replace(path, append(data, '\n')); err != nil {
		return fmt.Errorf("write snapshot %s, the one of before stays: %v", path, err)
	}
	return nil
}

// replace writes beside path, syncs, renames over it, and syncs the directory:
// after a power cut there is the old file or the new one, never half of one.
func replace(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".snapshot-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ReadSnapshot reads the snapshot at path. It refuses a file that another user
// could have written, since it opens the way past the mesh.
func ReadSnapshot(path string) (Snapshot, error) {
	data, err := readOwned(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	var s Snapshot
	if err := decode(data, &s); err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot %s: %v", path, err)
	}
	if err := s.validate(); err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot %s: %v", path, err)
	}
	return s, nil
}

// readOwned checks the file that it opened, not the one the path names a
// moment later.
func readOwned(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch mode := st.Mode & 0o777; {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a regular file", path)
	case !unixsocket.Trusted(st.Uid):
		return nil, fmt.Errorf("%s belongs to uid %d, want root", path, st.Uid)
	case mode&0o022 != 0:
		return nil, fmt.Errorf("%s has mode %#o, writable by others", path, mode)
	case st.Size > maxSnapshot:
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", path, st.Size, maxSnapshot)
	}
	return io.ReadAll(io.LimitReader(f, maxSnapshot))
}
