// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

const (
	namespace   = "culvert-system"
	secretName  = "culvert-ca"
	rootName    = "culvert-root"
	trustBundle = "certificates.k8s.io/v1/clustertrustbundles"
)

// apiServer can be stopped and started.
type apiServer struct {
	*kubetest.Server
	t       *testing.T
	address string
	http    *http.Server
}

func startServer(t *testing.T) *apiServer {
	s := &apiServer{Server: kubetest.New(), t: t, address: env.Address(t)}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens, at the same address as before.
func (s *apiServer) start() {
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.http = &http.Server{Handler: s.Server}
	go s.http.Serve(ln)
}

// stop cuts every connection and refuses new ones.
func (s *apiServer) stop() { s.http.Close() }

// config is a client's, with connections of its own.
func (s *apiServer) config() *rest.Config {
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &rest.Config{Host: "http://" + s.address, QPS: -1, Transport: transport}
}

// secret is the data of the CA's Secret, or nil.
func (s *apiServer) secret() ca.Files {
	for _, o := range s.Objects("secrets") {
		if o.GetName() == secretName {
			return o.(*corev1.Secret).Data
		}
	}
	return nil
}

// setSecret is kubectl edit: labels stay as they are. A new Secret is its operator's.
func (s *apiServer) setSecret(files ca.Files) {
	next := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secretName}, Data: files}
	for _, o := range s.Objects("secrets") {
		if o.GetName() == secretName {
			next.Labels = o.GetLabels()
		}
	}
	s.Set(next)
}

func (s *apiServer) deleteSecret() {
	s.Delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secretName}})
}

// root is what nodes find in the ConfigMap.
func (s *apiServer) root() string {
	for _, o := range s.Objects("configmaps") {
		if o.GetName() == rootName {
			return o.(*corev1.ConfigMap).Data[ca.RootFile]
		}
	}
	return ""
}

func (s *apiServer) setRoot(text string) {
	s.Set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootName}, Data: map[string]string{ca.RootFile: text}})
}

// bundle is what the ClusterTrustBundle says.
func (s *apiServer) bundle() string {
	for _, o := range s.Objects(trustBundle) {
		text, _, _ := unstructured.NestedString(o.(*unstructured.Unstructured).Object, "spec", "trustBundle")
		return text
	}
	return ""
}

// replica is one that runs, with its CA, and what it logged.
type replica struct {
	*Publisher
	keeper *ca.Keeper
	t      *testing.T
	ca     *ca.CA
	log    *env.Log
}

func start(t *testing.T, s *apiServer, change func(*Options)) *replica {
	t.Helper()
	r := &replica{t: t, ca: must(ca.New(ca.Options{TrustDomain: td})), log: &env.Log{}}
	o := Options{
		API: s.config(), CA: r.ca, Secret: namespace + "/" + secretName, ConfigMap: namespace + "/" + rootName,
		Log: slog.New(slog.NewJSONHandler(r.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	r.ca = o.CA
	r.Publisher = must(New(o))
	r.keeper = ca.NewKeeper(ca.KeeperOptions{CA: r.ca, Store: r.Store(), Tell: r.Tell, Log: o.Log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.keeper.Run(ctx) })
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return r
}

// waiting is what the replica waits for.
func (r *replica) waiting() error { return errors.Join(r.keeper.Waiting(), r.Waiting()) }

func (r *replica) count(reason ca.Reason) uint64 { return r.keeper.Events()[reason] }

func (r *replica) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; waiting for %v; log:\n%s", what, r.waiting(), r.log)
		}
	}
}

func (r *replica) untilReady() {
	r.t.Helper()
	r.until("ready", func() bool { return r.waiting() == nil })
}

// untilWaiting returns once the replica waits for something that says text.
func (r *replica) untilWaiting(text string) {
	r.t.Helper()
	r.until("waits for: "+text, func() bool {
		err := r.waiting()
		return err != nil && bytes.Contains([]byte(err.Error()), []byte(text))
	})
}

// said reports whether a record of the log says all of it.
func (r *replica) said(level, text string) bool {
	for decoder := json.NewDecoder(strings.NewReader(r.log.String())); decoder.More(); {
		var record map[string]any
		if decoder.Decode(&record) != nil {
			return false
		}
		all, _ := json.Marshal(record)
		if record["level"] == level && bytes.Contains(all, []byte(text)) {
			return true
		}
	}
	return false
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
