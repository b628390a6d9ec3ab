// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/test/env"
)

// control is a real etcd and a real kube-apiserver.
type control struct {
	t               *testing.T
	dir             string
	addr            string // of both
	etcd, apiserver *exec.Cmd
	kubeconfig      string
	client          dynamic.Interface
	programs        string // their directory
	etcdIn          string // the directory of its objects
}

// startControl needs the directory of the programs, as envtest does.
func startControl(t *testing.T) *control {
	programs := os.Getenv("KUBEBUILDER_ASSETS")
	if programs == "" {
		t.Skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver; make test-kubernetes builds them and runs this")
	}
	c := &control{t: t, dir: t.TempDir(), programs: programs, addr: ownAddr()}
	c.etcdIn = filepath.Join(c.dir, "etcd")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	c.write("tokens.key", string(text))
	c.write("tokens.csv", "secret,admin,admin,system:masters\n")
	c.kubeconfig = c.write("kubeconfig", fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {token: secret}}],
 clusters: [{name: c, cluster: {server: "https://%s:6443", insecure-skip-tls-verify: true}}]}`, c.addr))
	config, err := ClientConfig(c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.client, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *control) write(name, text string) string {
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *control) run(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.programs, program), args...)
	log, err := os.OpenFile(filepath.Join(c.dir, program+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := env.Start(cmd); err != nil { // of a test that is killed, nothing stays
		c.t.Fatal(err)
	}
	return cmd
}

func (c *control) startEtcd() {
	client, peer := "http://"+c.addr+":2379", "http://"+c.addr+":2380"
	c.etcd = c.run("etcd", "--data-dir="+c.etcdIn, "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync", "--log-level=warn")
}

func (c *control) start() {
	c.t.Helper()
	c.startEtcd()
	c.startAPIServer()
}

// startAPIServer returns once it is ready.
func (c *control) startAPIServer() {
	c.t.Helper()
	key := filepath.Join(c.dir, "tokens.key")
	c.apiserver = c.run("kube-apiserver", "--etcd-servers=http://"+c.addr+":2379", "--secure-port=6443",
		"--bind-address="+c.addr, "--cert-dir="+filepath.Join(c.dir, "certs"), "--token-auth-file="+filepath.Join(c.dir, "tokens.csv"),
		"--service-account-issuer=https://api", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=AlwaysAllow", "--disable-admission-plugins=ServiceAccount", "--profiling=false")
	within(c.t, 3*time.Minute, "the API server is ready", func() bool {
		_, err := c.client.Resource(gvr("v1", "Namespace")).Get(c.t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

func (c *control) kill() {
	c.killAPIServer()
	c.etcd.Process.Kill()
	c.etcd.Wait()
}

func (c *control) killAPIServer() {
	c.apiserver.Process.Kill()
	c.apiserver.Wait()
}

// apply makes or replaces an object and its status.
func (c *control) apply(text string) {
	c.t.Helper()
	o := custom(c.t, text)
	resource := c.resource(o)
	status, has := o.Object["status"]
	await(c.t, "apply "+text, func() bool {
		now, err := resource.Create(c.t.Context(), o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			if now, err = resource.Get(c.t.Context(), o.GetName(), metav1.GetOptions{}); err == nil {
				o.SetResourceVersion(now.GetResourceVersion())
				now, err = resource.Update(c.t.Context(), o, metav1.UpdateOptions{})
			}
		}
		if err == nil && has {
			now.Object["status"] = status
			_, err = resource.UpdateStatus(c.t.Context(), now, metav1.UpdateOptions{})
		}
		if err != nil {
			c.t.Log(err)
		}
		return err == nil
	})
}

func (c *control) delete(text string) {
	c.t.Helper()
	o, now := custom(c.t, text), int64(0)
	if err := c.resource(o).Delete(c.t.Context(), o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *control) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	plural, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	if o.GetNamespace() != "" {
		return c.client.Resource(plural).Namespace(o.GetNamespace())
	}
	return c.client.Resource(plural)
}
