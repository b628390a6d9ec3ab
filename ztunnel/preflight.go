// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// capabilities are what a ztunnel cannot do without, and for what. CAP_BPF is
// not among them: CAP_SYS_ADMIN, which setns(2) asks for, includes it.
var capabilities = []struct {
	bit   uint
	name  string
	needs string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "BPF for the network, rules and routes of pods"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "BPF, entering the network namespaces of pods"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "finding the network namespaces of running pods"},
}

// begin looks at everything that a ztunnel needs, and takes the lock of the state
// directory before anything is touched. The caller closes it.
func (c Config) begin() (*redirect.Lock, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := c.preflight(); err != nil {
		return nil, err
	}
	lock, err := redirect.LockDir(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("state directory (-state-dir): %w", err)
	}
	if err = closeNew(c.StateDir); err == nil {
		err = c.noOlder()
	}
	if err == nil {
		err = c.addresses()
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// closeNew closes a new state directory to others: the kubelet makes that of a
// hostPath for everybody to read. One that has something in it is left as it is, for
// it may be /run; so is one that others write to. The sockets are not opened there.
func closeNew(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o022 != 0 {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// noOlder refuses to run beside a ztunnel of a version that knows no lock.
func (c Config) noOlder() error {
	older, err := net.Dial("unix", c.enrollSocket())
	if err != nil {
		return nil
	}
	older.Close()
	return fmt.Errorf("a ztunnel of an older version still answers on %s: stop it first", c.enrollSocket())
}

// preflight returns everything that would fail later, and less plainly: each
// problem names what is missing, or the flag and its file.
func (c Config) preflight() error {
	return errors.Join(haveCapabilities("/proc/self/status"), c.files())
}

func (c Config) files() error {
	return errors.Join(
		isDirectory("workloads", c.Workloads, true),
		kubeconfig(c.Kubeconfig),
		isDirectory("state-dir", c.StateDir, false),
		isDirectory("bpffs", c.BPFFS, false),
		isDirectory("cgroup", c.Cgroup, true),
		isDirectory("kubelet-cgroup", c.KubeletCgroup, false),
		c.socketPaths(),
		c.issuerFiles(),
		c.workloadAPI(),
	)
}

// issuerFiles are those of a CA. SPIRE's agent may start later than ztunnel.
func (c Config) issuerFiles() error {
	if c.SPIREAgentSocket != "" {
		return nil
	}
	return errors.Join(plainFile("token-file", c.TokenFile), rootFile("ca-root", c.CARoot, time.Now()))
}

// addresses finds one that another process has, before a hook is attached; they
// are opened for good when there is something to serve.
func (c Config) addresses() error {
	var problems []error
	for _, listener := range []struct{ flag, address string }{
		{"metrics-address", c.MetricsAddress}, {"ready-address", c.ReadyAddress}, {"admin-address", c.AdminAddress},
	} {
		ln, err := net.Listen("tcp", listener.address)
		if err != nil {
			problems = append(problems, fmt.Errorf("-%s: %w", listener.flag, err))
			continue
		}
		ln.Close()
	}
	if len(problems) > 0 {
		problems = append(problems, c.pinsLocked())
	}
	return errors.Join(problems...)
}

// pinsLocked names the ztunnel that has the pins: it has the addresses, too.
func (c Config) pinsLocked() error {
	if _, err := os.Stat(c.BPFFS); err != nil {
		return nil // LockDir would make it
	}
	lock, err := redirect.LockDir(c.BPFFS)
	if errors.Is(err, redirect.ErrLocked) {
		return fmt.Errorf("-bpffs: %w", err)
	}
	if err == nil {
		lock.Close()
	}
	return nil
}

// haveCapabilities reads the effective ones of a process.
func haveCapabilities(status string) error {
	text, err := os.ReadFile(status)
	if err != nil {
		return fmt.Errorf("own capabilities: %w", err)
	}
	_, line, _ := strings.Cut(string(text), "\nCapEff:")
	line, _, _ = strings.Cut(line, "\n")
	have, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return fmt.Errorf("own capabilities: %s: CapEff: %v", status, err)
	}
	var missing []string
	for _, c := range capabilities {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, fmt.Sprintf("%s (%s)", c.name, c.needs))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing capabilities: %s", strings.Join(missing, ", "))
	}
	return nil
}

// isDirectory refuses a path that is something else, and, if it must exist, one
// that is not there. An empty path is a flag that is not given.
func isDirectory(flag, path string, must bool) error {
	st, err := os.Stat(path)
	switch {
	case path == "" || errors.Is(err, os.ErrNotExist) && !must:
		return nil
	case err != nil:
		return fmt.Errorf("-%s: %w", flag, err)
	case !st.IsDir():
		return fmt.Errorf("-%s: %s is not a directory", flag, path)
	}
	return nil
}

// kubeconfig refuses one that leads nowhere. An empty one is a flag that is not given.
func kubeconfig(path string) error {
	if path == "" {
		return nil
	}
	if err := kube.Check(path); err != nil {
		return fmt.Errorf("-kubeconfig: %w", err)
	}
	return nil
}

// plainFile refuses a directory. A file that is not there may come: see readiness.
func plainFile(flag, path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return fmt.Errorf("-%s: %s is a directory, want a file", flag, path)
	}
	return nil
}

// socketPaths refuses a state directory whose sockets nobody could connect to:
// sun_path ends with a NUL byte.
func (c Config) socketPaths() error {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1
	if path := c.enrollSocket(); len(path) > most {
		return fmt.Errorf("-state-dir: %s is longer than the %d bytes that the path of a socket may have", path, most)
	}
	return nil
}

// rootFile refuses a root that cannot verify anybody.
func rootFile(flag, path string, now time.Time) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("-%s: %w", flag, err)
	}
	if err := usableRoot(text, now); err != nil {
		return fmt.Errorf("-%s: %s %w", flag, path, err)
	}
	return nil
}

// usableRoot wants one root that is valid now; the others may be of a rotation.
func usableRoot(text []byte, now time.Time) error {
	why := errors.New("is not PEM")
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			why = fmt.Errorf("holds no certificate but a %s: give the CA's root.pem", block.Type)
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return fmt.Errorf("holds a certificate that cannot be read: %v", err)
		case !cert.IsCA:
			why = fmt.Errorf("holds the certificate %q, which is of no CA: give the CA's root.pem", cert.Subject)
		case now.After(cert.NotAfter):
			why = fmt.Errorf("holds a root that expired on %s", cert.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(cert.NotBefore):
			why = fmt.Errorf("holds a root that is not valid before %s; the clock says %s", cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		default:
			return nil
		}
	}
	return why
}
