// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

func TestAPanicBecomesACNIErrorExceptInDEL(t *testing.T) {
	panics := func() *types.Error { panic("nil map") }
	var stdout, stderr bytes.Buffer
	if code := exit("ADD", &stdout, &stderr, panics); code != 1 {
		t.Errorf("ADD exits %d", code)
	}
	var got types.Error
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatalf("stdout %q: %v", &stdout, err)
	}
	if got.Code != types.ErrInternal || got.Msg != "culvert-cni: panic: nil map" {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(stderr.String(), "cni_test.go") {
		t.Errorf("no stack on stderr: %s", &stderr)
	}
	stdout.Reset()
	if code := exit("DEL", &stdout, &stderr, panics); code != 0 || stdout.Len() != 0 {
		t.Errorf("DEL exits %d and prints %q", code, &stdout)
	}
}

func TestConfigErrorsOpenWithTheField(t *testing.T) {
	for _, tc := range []struct {
		text, want string
		code       uint
	}{
		{`{"socket":7}`, "socket: want string, got number", types.ErrDecodingFailure},
		{`{"socket":"enroll.sock"}`, `socket: want an absolute path, got "enroll.sock"`, types.ErrInvalidNetworkConfig},
		{`{"snapshot":"a","logFile":"b"}`, `snapshot: want an absolute path, got "a"; logFile: want`, types.ErrInvalidNetworkConfig},
		{`{"ownPod":"ztunnel-"}`, "ownPod: want namespace/name or namespace/prefix-", types.ErrInvalidNetworkConfig},
		{`{"ownPod":"A/b"}`, "ownPod: want namespace/name", types.ErrInvalidNetworkConfig},
		{`{"ownPod":"a/b_c-"}`, "ownPod: want namespace/name", types.ErrInvalidNetworkConfig},
		{`{"ownPod":"a/-"}`, "ownPod: want namespace/name", types.ErrInvalidNetworkConfig},
		{`{"ownPod":"a/b/c"}`, "ownPod: want namespace/name", types.ErrInvalidNetworkConfig},
		{`{"ownPod":""}`, "ownPod: empty: leave the key out", types.ErrInvalidNetworkConfig},
		{`{"socket":""}`, "socket: empty: leave the key out", types.ErrInvalidNetworkConfig},
		{`{"statusStrict":null}`, "statusStrict: empty", types.ErrInvalidNetworkConfig},
		{`{"statusStrict":"yes"}`, "statusStrict: want bool, got string", types.ErrDecodingFailure},
		{`{"socket":" /run/x"}`, "socket: want an absolute path", types.ErrInvalidNetworkConfig},
		{`{"socket":"/` + strings.Repeat("x", 107) + `"}`, "socket: 108 bytes", types.ErrInvalidNetworkConfig},
		{`{"sockets":"/x","type":"culvert-cni"}`, "sockets: unknown key: culvert-cni has socket, snapshot, ownPod, logFile, statusStrict", types.ErrInvalidNetworkConfig},
		{`{"Socket":"/x","logfile":"/y"}`, "Socket: unknown key: culvert-cni has socket, snapshot, ownPod, logFile, statusStrict; logfile: unknown key", types.ErrInvalidNetworkConfig},
		{`{"ipam":{}}`, "ipam: unknown key", types.ErrInvalidNetworkConfig},
		{`{"cniVersion":"1.1.0","prevResult":7}`, "prevResult: ", types.ErrDecodingFailure},
		{`{"cniVersion":"1.1.0","prevResult":{"ips":[{"address":"10.0.0"}]}}`, "prevResult: ", types.ErrDecodingFailure},
		{`{`, "unexpected end of JSON", types.ErrDecodingFailure},
	} {
		_, err := parseConfig([]byte(tc.text))
		var got *types.Error
		if !errors.As(err, &got) || got.Code != tc.code || !strings.HasPrefix(got.Msg, tc.want) {
			t.Errorf("%s: %#v, want code %d, %q", tc.text, err, tc.code, tc.want)
		}
	}
}

func TestKeysOfTheRuntimeAreNoneOfOurConcern(t *testing.T) {
	if _, err := parseConfig([]byte(`{"cniVersion":"1.1.0","name":"pods","type":"culvert-cni","args":{"cni":{"ips":[]}},
		"capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[]},"cni.dev/attachments":[],"cni.dev/valid-attachments":[]}`)); err != nil {
		t.Error(err)
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := parseConfig([]byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Socket != "/run/culvert/enroll.sock" || c.Snapshot != "/run/culvert/snapshot.json" {
		t.Errorf("socket %s, snapshot %s", c.Socket, c.Snapshot)
	}
}

func TestArgsOfOtherPluginsAreIgnored(t *testing.T) {
	for _, tc := range []struct {
		args string
		pod  enroll.Pod
		ok   bool
	}{
		{"", enroll.Pod{}, true},
		{"IgnoreUnknown=1;MAC=0a:58;flag", enroll.Pod{}, true},
		{"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=5f;K8S_POD_UID=u",
			enroll.Pod{Namespace: "shop", Name: "web", UID: "u"}, true},
		{"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", enroll.Pod{Namespace: "shop", Name: "web"}, true},
		{"K8S_POD_NAME=web", enroll.Pod{}, false},
		{"K8S_POD_NAMESPACE=shop", enroll.Pod{}, false},
		{"K8S_POD_UID=u", enroll.Pod{}, false},
	} {
		pod, err := parseArgs(tc.args)
		if pod != tc.pod || (err == nil) != tc.ok {
			t.Errorf("%q: %+v, %v", tc.args, pod, err)
		}
	}
}

func TestWithoutZtunnelTheSnapshotDecides(t *testing.T) {
	snapshot := enroll.Snapshot{
		MeshedNamespaces: []string{"shop"},
		AllNamespaces:    []string{"shop", "default", "culvert-system"},
		OwnPod:           enroll.Pod{Namespace: "shop", Name: "ztunnel-abcde", UID: "u1"},
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "snapshot.json")
	if err := enroll.WriteSnapshot(path, snapshot); err != nil {
		t.Fatal(err)
	}
	writable := filepath.Join(dir, "writable.json")
	if err := enroll.WriteSnapshot(writable, snapshot); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(writable, 0o666); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none.json")

	for _, tc := range []struct {
		snapshot, pod, uid string
		want               string // "" passes
	}{
		{path, "shop/web", "u9", "namespace shop is in the mesh and ztunnel did not answer"},
		{path, "default/web", "u9", ""},
		{path, "brand-new/web", "u9", "namespace brand-new is newer than what ztunnel knew last"},
		{path, "shop/ztunnel-abcde", "u1", ""},
		{path, "shop/ztunnel-abcde", "", ""},
		{path, "shop/ztunnel-abcde", "u2", "namespace shop is in the mesh"},
		{none, "default/web", "u9", "left no snapshot " + none + " to tell whether namespace default is in the mesh"},
		{none, "culvert-system/ztunnel-x7k2p", "u9", ""},
		{none, "culvert-system/ztunnel", "u9", "left no snapshot"},
		{none, "default/ztunnel-x7k2p", "u9", "left no snapshot"},
		{writable, "default/web", "u9", "its snapshot is of no use: read snapshot: " + writable + " has mode 0666, writable by others"},
	} {
		namespace, name, _ := strings.Cut(tc.pod, "/")
		req := enroll.Request{PodNamespace: namespace, PodName: name, PodUID: tc.uid}
		conf := config{Settings: Settings{Snapshot: tc.snapshot, OwnPod: "culvert-system/ztunnel-"}}
		err := conf.decide(req, fmt.Errorf("%w: connection refused", enroll.ErrUnanswered))
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s %s: %v", filepath.Base(tc.snapshot), tc.pod, err)
			}
			continue
		}
		var got *types.Error
		if !errors.As(err, &got) || got.Code != types.ErrTryAgainLater || !strings.Contains(got.Msg, tc.want) || got.Details != hintZtunnel {
			t.Errorf("%s %s: %v, want %q", filepath.Base(tc.snapshot), tc.pod, err, tc.want)
		}
	}
}

func TestALogThatGrewIsMovedAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni.log")
	if err := os.WriteFile(path, make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	now, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	if now.Size() != 0 || before.Size() != maxLog+1 {
		t.Errorf("log has %d bytes, the one before %d", now.Size(), before.Size())
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"kindnet","type":"culvert-cni","socket":"/run/culvert/enroll.sock",
		"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.1.0.5/24"},{"address":"fd00::5/64"}]}}`),
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u")
	f.Add([]byte(`{"cniVersion":"0.3.1","name":"n","prevResult":{"ips":[{"version":"4","address":"10.1.0.5/24"}]}}`), "")
	f.Add([]byte(`{"name":"n","ownPod":"a/b-","cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`), "K8S_POD_NAME=a=b")
	f.Add([]byte(`{"cniVersion":"1.1.0","prevResult":null}`), ";;=;")
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		cmd := &skel.CmdArgs{ContainerID: "c", IfName: "eth0", Netns: "/n", Args: args, StdinData: stdin}
		for _, verb := range []string{"add", "del", "check"} {
			conf, req, err := read(verb, cmd)
			if err != nil {
				var cniErr *types.Error
				if !errors.As(err, &cniErr) || cniErr.Code == 0 {
					t.Fatalf("%s: an error without a code: %#v", verb, err)
				}
				continue
			}
			if req.PodName != "" && req.Validate(verb) != nil {
				t.Fatalf("%s: ztunnel will refuse %+v", verb, req)
			}
			if conf.prevResult == nil {
				continue
			}
			var out bytes.Buffer
			if err := conf.pass(&out); err != nil || !json.Valid(out.Bytes()) {
				t.Fatalf("%s: passed on %q: %v", verb, &out, err)
			}
		}
	})
}
