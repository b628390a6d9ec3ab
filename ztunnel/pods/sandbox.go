// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// sandbox is what ztunnel remembers of one pod sandbox on this node, meshed
// or not, so that a later label or a restart of ztunnel needs no new CNI ADD.
//
// It is keyed by what dies with the sandbox. A pod that keeps its UID through
// a reboot gets a new netns, and the old record must not speak for it.
type sandbox struct {
	ContainerID string       `json:"containerID"`
	PodUID      string       `json:"podUID,omitempty"` // as the kubelet knows it
	Namespace   string       `json:"namespace"`
	Name        string       `json:"name"`
	Netns       string       `json:"netns"` // path, as the runtime named it
	Cookie      netns.Cookie `json:"cookie"`
	Inode       uint64       `json:"inode"` // of the netns: cheap to compare
	BootID      string       `json:"bootID"`
	Networks    []network    `json:"networks"` // none: the runtime deleted it, and its netns is yet to go
}

// network is one CNI network that the runtime put the sandbox on.
type network struct {
	Name   string       `json:"name"`
	IfName string       `json:"ifName,omitempty"` // not known of a record of format 1
	IPs    []netip.Addr `json:"ips"`
}

func (s sandbox) String() string { return s.Namespace + "/" + s.Name }

// ips are the addresses that the runtime gave the sandbox, the first network's
// first.
func (s sandbox) ips() (all []netip.Addr) {
	for _, n := range s.Networks {
		for _, ip := range n.IPs {
			if !slices.Contains(all, ip) {
				all = append(all, ip)
			}
		}
	}
	return all
}

// deleted reports whether the runtime took the sandbox off its last network.
func (s sandbox) deleted() bool { return len(s.Networks) == 0 }

// is reports whether n is what the runtime means by a network and an interface.
func (n network) is(name, ifName string) bool {
	return n.Name == name && (n.IfName == ifName || n.IfName == "")
}

// mayBeOf reports whether nothing says that s and other are of two pods. A UID that is
// not known has the names in its place.
func (s sandbox) mayBeOf(other sandbox) bool {
	if s.PodUID == "" {
		return s.Namespace == other.Namespace && s.Name == other.Name
	}
	return s.PodUID == other.PodUID
}

// with returns s after what later says of the same netns: another network of the
// same container, or other addresses of one. A container ID that was not known,
// or another one, begins anew. What was found in /proc says nothing new, but for a UID
// that the runtime did not pass.
func (s sandbox) with(later sandbox) sandbox {
	if s.PodUID == "" {
		s.PodUID = later.PodUID
	}
	if isScanned(later) {
		return s
	}
	if s.ContainerID != later.ContainerID {
		return later
	}
	s.Netns = later.Netns
	s.Networks = slices.Clone(s.Networks)
	for _, n := range later.Networks {
		if i := slices.IndexFunc(s.Networks, func(old network) bool { return old.is(n.Name, n.IfName) }); i >= 0 {
			s.Networks[i] = n
		} else {
			s.Networks = append(s.Networks, n)
		}
	}
	return s
}

// without returns s off the networks that gone names.
func (s sandbox) without(gone func(network) bool) sandbox {
	s.Networks = slices.DeleteFunc(slices.Clone(s.Networks), gone)
	return s
}

// record is a sandbox as it is stored. The format changes when an older ztunnel
// could misread one. 1 said no format, had one network, and a file was named by
// the container.
type record struct {
	Format int `json:"format"`
	sandbox
}

const recordFormat = 2

// sandboxFiles keeps one JSON file per netns in a root-only directory.
type sandboxFiles struct{ dir string }

// openSandboxFiles creates dir.
func openSandboxFiles(dir string) (sandboxFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sandboxFiles{}, fmt.Errorf("sandbox records: %w", err)
	}
	return sandboxFiles{dir}, nil
}

// write stores s so that a crash leaves either the old record or the new one.
func (f sandboxFiles) write(s sandbox) error {
	b, err := json.Marshal(record{recordFormat, s})
	if err != nil {
		return fmt.Errorf("record of sandbox %v: %v", s, err)
	}
	path := f.path(s.Cookie)
	tmp := path + ".tmp"
	if err := writeSynced(tmp, b); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("record of sandbox %v: %w", s, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("record of sandbox %v: %w", s, err)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// remove forgets a sandbox; one that is not there is fine.
func (f sandboxFiles) remove(cookie netns.Cookie) error {
	if err := os.Remove(f.path(cookie)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of netns %d: %w", cookie, err)
	}
	return nil
}

// load returns the readable records of this boot, removes those of an earlier
// one, and reports the files it could not read. It brings records of format 1 up
// to date, the new file first: cut short, it does so again. A record of a format
// that this ztunnel does not know is reported and stays.
func (f sandboxFiles) load(bootID string) (found []sandbox, problems error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("sandbox records: %w", err)
	}
	byCookie := map[netns.Cookie]sandbox{}
	for _, e := range entries {
		path := filepath.Join(f.dir, e.Name())
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		s, err := readRecord(path)
		switch {
		case err != nil:
			problems = errors.Join(problems, fmt.Errorf("%s: %w", path, err))
			continue
		case s.BootID != bootID:
			problems = errors.Join(problems, os.Remove(path))
			continue
		case path != f.path(s.Cookie):
			problems = errors.Join(problems, f.move(s, path))
			if _, newer := byCookie[s.Cookie]; newer {
				continue
			}
		}
		byCookie[s.Cookie] = s
	}
	return slices.SortedFunc(maps.Values(byCookie), func(a, b sandbox) int { return cmp.Compare(a.Cookie, b.Cookie) }), problems
}

// move puts a record where this version keeps it, unless it is there already.
func (f sandboxFiles) move(s sandbox, from string) error {
	if _, err := os.Stat(f.path(s.Cookie)); err != nil {
		if err := f.write(s); err != nil {
			return err
		}
	}
	return os.Remove(from)
}

// readRecord reads a record of this format or of the one before it.
func readRecord(path string) (sandbox, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return sandbox{}, err
	}
	var r struct {
		record
		Network string       `json:"network"` // these two of format 1
		IPs     []netip.Addr `json:"ips"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return sandbox{}, err
	}
	switch {
	case r.Format > recordFormat:
		return sandbox{}, fmt.Errorf("format: a newer Culvert wrote it (%d, this one reads up to %d); it is left as it is", r.Format, recordFormat)
	case r.Cookie == 0 || r.ContainerID == "":
		return sandbox{}, errors.New("is not a whole record: it names no netns or no container")
	case r.Format == 0:
		r.Networks = []network{{Name: r.Network, IPs: r.IPs}}
	}
	return r.sandbox, nil
}

// path names a record by its netns: there is one for each.
func (f sandboxFiles) path(cookie netns.Cookie) string {
	return filepath.Join(f.dir, strconv.FormatUint(uint64(cookie), 10)+".json")
}

// KeepRecords writes the records that another hand removed, and their directory,
// and reports whether any was missing.
func (p *Pods) KeepRecords() (replaced bool, err error) {
	if _, err := os.Lstat(p.files.dir); errors.Is(err, fs.ErrNotExist) {
		replaced = true
		if err := os.MkdirAll(p.files.dir, 0o700); err != nil {
			return true, fmt.Errorf("sandbox records: %w", err)
		}
	}
	var problems error
	for _, pod := range p.all() {
		again, err := p.keepRecord(pod)
		replaced, problems = replaced || again, errors.Join(problems, err)
	}
	return replaced, problems
}

func (p *Pods) keepRecord(pod *pod) (replaced bool, err error) {
	if _, err := os.Lstat(p.files.path(pod.sandbox().Cookie)); !errors.Is(err, fs.ErrNotExist) {
		return false, nil // the usual case, which waits for no pod
	}
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if pod.gone {
		return false, nil
	}
	return true, p.files.write(pod.sandbox())
}
