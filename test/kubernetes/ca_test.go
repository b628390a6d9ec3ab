// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// cas are replicas of the CA that share a Secret of a running cluster.
type cas struct {
	*running
	program    string
	kubeconfig string // of the role that ships
}

// useCAs gives a namespace the CA's ServiceAccount with the rules that ship.
func useCAs(c *running) *cas {
	c.t.Helper()
	eventually(c.t, func() error { // that of the test before may be going
		_, err := c.kubectl("create", "namespace", "culvert-system")
		return err
	})
	c.t.Cleanup(func() { _, _ = c.kubectl("delete", "namespace", "culvert-system", "--wait=false") })
	manifests, err := os.ReadFile("../../deploy/manifests/culvert.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	var role []string
	for object := range strings.SplitSeq(string(manifests), "\n---\n") {
		for _, kind := range []string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"} {
			if strings.Contains(object, "\nkind: "+kind+"\n") && strings.Contains(object, "\n  name: culvert-identity\n") {
				role = append(role, object)
			}
		}
	}
	file := filepath.Join(c.t.TempDir(), "role.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(role, "\n---\n")), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.mustKubectl("apply", "--filename="+file)
	c.t.Cleanup(func() { c.mustKubectl("delete", "--filename="+file, "--ignore-not-found", "--wait=false") })
	return &cas{c, filepath.Join(buildMesh(c.t), "culvert-identity"), c.kubeconfigOf("culvert-system", "culvert-identity")}
}

// kubeconfigOf returns one by which its user is a ServiceAccount.
func (r *running) kubeconfigOf(namespace, account string) string {
	r.t.Helper()
	admin, err := os.ReadFile(cluster.Kubeconfig(r.name))
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, admin, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.mustKubectl("--kubeconfig="+path, "config", "set-credentials", account, "--token="+r.mustKubectl("create", "token", account, "--namespace="+namespace))
	r.mustKubectl("--kubeconfig="+path, "config", "set-context", "--current", "--user="+account)
	return path
}

// replica is one process.
type replica struct {
	cmd           *exec.Cmd
	nodes, status string // addresses
	log           bytes.Buffer
	stop          func()
}

func (c *cas) start(kubeconfig string, more ...string) *replica {
	c.t.Helper()
	r := &replica{nodes: freeAddress(c.t), status: freeAddress(c.t)}
	r.cmd = exec.Command(c.program, append([]string{"-kubeconfig", kubeconfig, "-secret", "culvert-system/culvert-ca",
		"-root-configmap", "culvert-system/culvert-root", "-listen", r.nodes, "-metrics-address", r.status, "-admin-address", freeAddress(c.t)}, more...)...)
	r.cmd.Stderr = &r.log
	if err := startProcess(r.cmd); err != nil {
		c.t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		if err := r.cmd.Wait(); err != nil {
			c.t.Errorf("the CA ended: %v\n%s", err, &r.log)
		}
	})
	c.t.Cleanup(r.stop)
	return r
}

// startProcess starts cmd, which is killed when this process ends. The kernel sends that signal
// at the end of the thread that started cmd (prctl(2), PR_SET_PDEATHSIG), so one of its
// own does, and stays until cmd has ended.
func startProcess(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		for err == nil && unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return <-started
}

// lastPort is the one that freeAddress gave last. They are below those that the kernel
// gives to clients (ip_local_port_range), which would take one before it is listened on.
var lastPort atomic.Int32

func init() { lastPort.Store(20000) }

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 10000 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lastPort.Add(1)))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// awaitStatus waits until the readiness of a replica says a text.
func (c *cas) awaitStatus(r *replica, want string) {
	c.t.Helper()
	eventually(c.t, func() error {
		answer, err := http.Get("http://" + r.status + "/healthz/ready")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if body, _ := io.ReadAll(answer.Body); !strings.Contains(string(body), want) {
			return fmt.Errorf("it says %q, not %q", body, want)
		}
		return nil
	})
}

// issuer is the certificate under which a replica serves, in PEM.
func (c *cas) issuer(r *replica) string {
	c.t.Helper()
	conn, err := tls.Dial("tcp", r.nodes, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conn.ConnectionState().PeerCertificates[1].Raw}))
}

// secret is the content of one key.
func (c *cas) secret(key string) string {
	c.t.Helper()
	text, err := base64.StdEncoding.DecodeString(c.mustKubectl("get", "secret", "culvert-ca", "--namespace=culvert-system",
		"--output=jsonpath={.data."+strings.ReplaceAll(key, ".", `\.`)+"}"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func TestCAsThatStartColdShareOneRootByTheRoleThatShips(t *testing.T) {
	c := useCAs(useShared(t))
	for round := range 3 {
		if round > 0 {
			c.mustKubectl("delete", "secret/culvert-ca", "configmap/culvert-root", "--namespace=culvert-system")
		}
		replicas := []*replica{c.start(c.kubeconfig), c.start(c.kubeconfig), c.start(c.kubeconfig)}
		for _, r := range replicas {
			c.awaitStatus(r, "ready\n")
			if c.issuer(r) != c.secret("issuer.pem") {
				t.Fatalf("round %d: a replica has another issuer than the Secret:\n%s", round, &r.log)
			}
		}
		root := c.mustKubectl("get", "configmap", "culvert-root", "--namespace=culvert-system", `--output=jsonpath={.data.root\.pem}`)
		if root != strings.TrimSpace(c.secret("root.pem")) {
			t.Fatalf("nodes find another root than the Secret's:\n%s", root)
		}
		for _, r := range replicas {
			r.stop()
		}
	}

	// The ConfigMap without its Secret is the trace of a CA: no second root is made.
	c.mustKubectl("delete", "secret/culvert-ca", "--namespace=culvert-system")
	r := c.start(c.kubeconfig)
	c.awaitStatus(r, "ConfigMap culvert-system/culvert-root holds the root of a CA: restore the Secret from a backup")
	if out, err := c.kubectl("get", "secret", "culvert-ca", "--namespace=culvert-system"); err == nil {
		t.Errorf("another CA was made:\n%s", out)
	}
	c.mustKubectl("delete", "configmap/culvert-root", "--namespace=culvert-system")
	c.awaitStatus(r, "ready\n")
}

func TestTheRootIsInAClusterTrustBundle(t *testing.T) {
	c := useCAs(useShared(t))
	t.Cleanup(func() { _, _ = c.kubectl("delete", "clustertrustbundle", "culvert") })
	r := c.start(cluster.Kubeconfig(c.name), "-cluster-trust-bundle", "culvert")
	c.awaitStatus(r, "ready\n")
	want := strings.TrimSpace(c.secret("root.pem"))
	if got := c.mustKubectl("get", "clustertrustbundle", "culvert", "--output=jsonpath={.spec.trustBundle}"); got != want {
		t.Errorf("it holds\n%s", got)
	}
	c.mustKubectl("delete", "clustertrustbundle", "culvert")
	eventually(t, func() error {
		_, err := c.kubectl("get", "clustertrustbundle", "culvert")
		return err
	})
}
