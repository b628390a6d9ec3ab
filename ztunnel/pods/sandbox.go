// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
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
	Network     string       `json:"network,omitempty"` // name of the CNI network
	PodUID      string       `json:"podUID,omitempty"`
	Namespace   string       `json:"namespace"`
	Name        string       `json:"name"`
	Netns       string       `json:"netns"` // path, as the runtime named it
	Cookie      netns.Cookie `json:"cookie"`
	Inode       uint64       `json:"inode"` // of the netns: cheap to compare
	BootID      string       `json:"bootID"`
	IPs         []netip.Addr `json:"ips"`
}

func (s sandbox) String() string { return s.Namespace + "/" + s.Name }

// sandboxFiles keeps one JSON file per sandbox in a root-only directory.
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
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("record of sandbox %v: %v", s, err)
	}
	path := f.path(s.ContainerID)
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
func (f sandboxFiles) remove(containerID string) error {
	if err := os.Remove(f.path(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of container %s: %w", containerID, err)
	}
	return nil
}

// load returns the readable records of this boot, removes those of an earlier
// one, and reports the files it could not read.
func (f sandboxFiles) load(bootID string) (found []sandbox, problems error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("sandbox records: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(f.dir, e.Name())
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(path)
		var s sandbox
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		switch {
		case err != nil:
			problems = errors.Join(problems, fmt.Errorf("%s: %w", path, err))
		case s.BootID != bootID:
			problems = errors.Join(problems, os.Remove(path))
		default:
			found = append(found, s)
		}
	}
	return found, problems
}

// path names a record. Container IDs were checked by cni/enroll: letters,
// digits and "_.-" only, so they cannot leave the directory.
func (f sandboxFiles) path(containerID string) string {
	return filepath.Join(f.dir, containerID+".json")
}

// bootID is the kernel's random id of this boot: netns cookies start anew with
// the next one.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
