// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
)

// binary is the plugin as it ships.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "culvert-cni-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "culvert-cni")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := env.CheckLeaks(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// ztunnel is the other end of the enroll socket.
type ztunnel struct {
	asked chan any
	reply enroll.Reply
	err   error
}

func (z *ztunnel) Add(_ context.Context, r enroll.Request) (enroll.Reply, error) {
	z.asked <- r
	return z.reply, z.err
}

func (z *ztunnel) Del(_ context.Context, r enroll.Request) error   { z.asked <- r; return z.err }
func (z *ztunnel) Check(_ context.Context, r enroll.Request) error { z.asked <- r; return z.err }

func (z *ztunnel) GC(_ context.Context, network string, valid []enroll.Attachment) error {
	z.asked <- map[string][]enroll.Attachment{network: valid}
	return z.err
}

// serve runs z and returns its state directory.
func serve(t *testing.T, z *ztunnel) string {
	t.Helper()
	z.asked = make(chan any, 16)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := enroll.Listen(filepath.Join(dir, "enroll.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- enroll.Serve(ctx, ln, z) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return dir
}

// call is one run of the plugin by a runtime.
type call struct {
	verb    string
	config  map[string]any
	stdin   string // instead of config
	environ map[string]string
}

// answer is what the runtime gets.
type answer struct {
	stdout, stderr string
	code           uint // of the CNI error
	msg            string
}

const podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=5f2e;K8S_POD_UID=0f4c-7a52"

// conf is the plugin's config as libcni injects it.
func conf(version, dir string) map[string]any {
	return map[string]any{
		"cniVersion": version, "name": "pods", "type": "culvert-cni",
		"socket": filepath.Join(dir, "enroll.sock"), "snapshot": filepath.Join(dir, "snapshot.json"),
		"prevResult": json.RawMessage(prevResult(version)),
	}
}

// prevResult has a number that a float64 cannot hold and a field that no type
// of libcni knows.
func prevResult(version string) string {
	return `{"cniVersion":"` + version + `","interfaces":[{"name":"eth0","sandbox":"/run/netns/a"}],` +
		`"ips":[{"version":"4","interface":0,"address":"10.1.0.5/24"},{"version":"6","interface":0,"address":"fd00::5/64"}],` +
		`"dns":{},"vendor":{"id":9007199254740993}}`
}

func (c call) run(t *testing.T) answer {
	t.Helper()
	environ := map[string]string{
		"CNI_COMMAND": c.verb, "CNI_CONTAINERID": "5f2e", "CNI_IFNAME": "eth0",
		"CNI_NETNS": "/run/netns/a", "CNI_ARGS": podArgs, "CNI_PATH": filepath.Dir(binary),
	}
	for key, value := range c.environ {
		environ[key] = value
	}
	cmd := exec.CommandContext(t.Context(), binary)
	for key, value := range environ {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	stdin := []byte(c.stdin)
	if c.config != nil {
		var err error
		if stdin, err = json.Marshal(c.config); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	got := answer{stdout: stdout.String(), stderr: stderr.String()}
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	if err == nil {
		return got
	}
	var cniErr struct {
		Code         uint
		Msg, Details string
	}
	if err := json.Unmarshal(stdout.Bytes(), &cniErr); err != nil || cniErr.Code == 0 {
		t.Fatalf("%s exits %d, stdout is no CNI error: %q, stderr %q", c.verb, exited.ExitCode(), &stdout, &stderr)
	}
	got.code, got.msg = cniErr.Code, cniErr.Msg+"; "+cniErr.Details
	return got
}

func (a answer) want(t *testing.T, what string, code uint, parts ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("%s: code %d %q, want %d; stderr %s", what, a.code, a.msg, code, a.stderr)
	}
	for _, part := range parts {
		if !strings.Contains(a.msg, part) {
			t.Errorf("%s: %q does not say %q", what, a.msg, part)
		}
	}
}

func TestAddPassesThePreviousResultUnchangedAtEveryVersion(t *testing.T) {
	z := &ztunnel{reply: enroll.Reply{Verdict: enroll.Enrolled}}
	dir := serve(t, z)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		got := call{verb: "ADD", config: conf(version, dir)}.run(t)
		got.want(t, version, 0)
		if strings.TrimSpace(got.stdout) != prevResult(version) {
			t.Errorf("%s: stdout\n%s, want\n%s", version, got.stdout, prevResult(version))
		}
		<-z.asked
	}
	got := call{verb: "ADD", config: conf("0.2.0", dir)}.run(t)
	got.want(t, "a version without chaining", 1, "incompatible CNI versions")
}

func TestAddTellsZtunnelWhatTheRuntimeSaid(t *testing.T) {
	z := &ztunnel{reply: enroll.Reply{Verdict: enroll.Enrolled}}
	dir := serve(t, z)
	call{verb: "ADD", config: conf("1.1.0", dir)}.run(t).want(t, "ADD", 0)
	got := (<-z.asked).(enroll.Request)
	if got.BootID == "" || got.PluginVersion == "" {
		t.Errorf("boot id %q, plugin version %q", got.BootID, got.PluginVersion)
	}
	got.BootID, got.PluginVersion = "", ""
	want := enroll.Request{
		Network: "pods", ContainerID: "5f2e", IfName: "eth0", Netns: "/run/netns/a",
		PodNamespace: "shop", PodName: "web-1", PodUID: "0f4c-7a52",
		IPs: enroll.Addrs{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}

	noUID := map[string]string{"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"}
	call{verb: "ADD", config: conf("1.1.0", dir), environ: noUID}.run(t).want(t, "no UID", 0)
	if got := (<-z.asked).(enroll.Request); got.PodUID != "" || got.PodName != "web-1" {
		t.Errorf("no UID: %+v", got)
	}
}

func TestAddFailsWithAReasonAndWhatToDo(t *testing.T) {
	z := &ztunnel{reply: enroll.Reply{Verdict: enroll.Block, Reason: "sk_lookup is not attached"}}
	dir := serve(t, z)
	call{verb: "ADD", config: conf("1.1.0", dir)}.run(t).want(t, "blocked", 11,
		"pod shop/web-1 may not start: ztunnel blocks it: sk_lookup is not attached", "see the log of ztunnel on this node")

	z.err = errors.New("no pod 0f4c-7a52 on this node")
	call{verb: "ADD", config: conf("1.1.0", dir)}.run(t).want(t, "handler error", 11,
		"pod shop/web-1 may not start: ztunnel could not enroll it: no pod 0f4c-7a52 on this node")
}

func TestAddRefusesWhatItCannotUnderstand(t *testing.T) {
	z := &ztunnel{reply: enroll.Reply{Verdict: enroll.Enrolled}}
	dir := serve(t, z)
	with := func(key string, value any) map[string]any {
		c := conf("1.1.0", dir)
		c[key] = value
		return c
	}
	for _, tc := range []struct {
		name    string
		config  map[string]any
		environ map[string]string
		code    uint
		want    string
	}{
		{"not behind another plugin", with("prevResult", nil), nil, 7, "prevResult: missing"},
		{"relative socket", with("socket", "enroll.sock"), nil, 7, "socket: want an absolute path"},
		{"a key that is misspelt", with("statusstrict", true), nil, 7, "statusstrict: unknown key: culvert-cni has socket"},
		{"socket of the wrong type", with("socket", 5), nil, 6, "socket: want string"},
		{"half a pod", conf("1.1.0", dir), map[string]string{"CNI_ARGS": "K8S_POD_NAME=web-1"}, 4, "CNI_ARGS: want"},
		{"no name of a pod", conf("1.1.0", dir), map[string]string{"CNI_ARGS": "K8S_POD_NAMESPACE=s;K8S_POD_NAME=A_b"}, 4, "podName: want a pod name"},
		{"a relative netns", conf("1.1.0", dir), map[string]string{"CNI_NETNS": "netns/a"}, 4, "netns: want an absolute path"},
	} {
		call{verb: "ADD", config: tc.config, environ: tc.environ}.run(t).want(t, tc.name, tc.code, tc.want)
	}
	if len(z.asked) != 0 {
		t.Errorf("ztunnel was asked: %+v", <-z.asked)
	}
}

func TestWhatIsNoPodPassesUnasked(t *testing.T) {
	z := &ztunnel{}
	dir := serve(t, z)
	got := call{verb: "ADD", config: conf("1.1.0", dir), environ: map[string]string{"CNI_ARGS": "IgnoreUnknown=1"}}.run(t)
	got.want(t, "no pod", 0)
	if strings.TrimSpace(got.stdout) != prevResult("1.1.0") || len(z.asked) != 0 {
		t.Errorf("stdout %s, ztunnel asked %d times", got.stdout, len(z.asked))
	}
}

func TestWithoutZtunnelOnlyMeshedAndUnknownNamespacesWait(t *testing.T) {
	dir := t.TempDir()
	snapshot := enroll.Snapshot{MeshedNamespaces: []string{"shop"}, AllNamespaces: []string{"shop", "plain"}}
	if err := enroll.WriteSnapshot(filepath.Join(dir, "snapshot.json"), snapshot); err != nil {
		t.Fatal(err)
	}
	run := func(dir, namespace, name string) answer {
		c := conf("1.1.0", dir)
		c["ownPod"] = "culvert-system/ztunnel-"
		args := "K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + name
		return call{verb: "ADD", config: c, environ: map[string]string{"CNI_ARGS": args}}.run(t)
	}
	run(dir, "plain", "web").want(t, "unlabelled", 0)
	run(dir, "culvert-system", "ztunnel-x7k2p").want(t, "ztunnel itself", 0)
	run(dir, "shop", "web").want(t, "labelled", 11,
		"pod shop/web may not start: namespace shop is in the mesh and ztunnel did not answer", "no such file",
		"start or repair ztunnel on this pod's node")
	run(dir, "new", "web").want(t, "unknown", 11, "namespace new is newer than what ztunnel knew last")

	empty := t.TempDir()
	run(empty, "plain", "web").want(t, "no snapshot", 11, "left no snapshot")
	run(empty, "culvert-system", "ztunnel-x7k2p").want(t, "ztunnel itself on a new node", 0)
}

func TestDelNeverFails(t *testing.T) {
	z := &ztunnel{}
	dir := serve(t, z)
	noNetns := map[string]string{"CNI_NETNS": ""}
	got := call{verb: "DEL", config: map[string]any{"cniVersion": "1.1.0", "name": "pods",
		"socket": filepath.Join(dir, "enroll.sock")}, environ: noNetns}.run(t)
	got.want(t, "a netns that is gone", 0)
	if r := (<-z.asked).(enroll.Request); r.ContainerID != "5f2e" || r.Netns != "" {
		t.Errorf("ztunnel was told %+v", r)
	}
	z.err = errors.New("unknown sandbox")
	for name, c := range map[string]call{
		"ztunnel fails":      {config: conf("1.1.0", dir)},
		"ztunnel is away":    {config: conf("1.1.0", t.TempDir())},
		"an unknown version": {config: conf("9.9.9", dir)},
		"garbage on stdin":   {stdin: "{"},
		"a relative socket":  {config: map[string]any{"cniVersion": "1.1.0", "name": "pods", "socket": "s"}},
		"half a pod":         {config: conf("1.1.0", dir), environ: map[string]string{"CNI_ARGS": "K8S_POD_NAME=a"}},
		"no container id":    {config: conf("1.1.0", dir), environ: map[string]string{"CNI_CONTAINERID": ""}},
	} {
		c.verb = "DEL"
		got := c.run(t)
		got.want(t, name, 0)
		if got.stdout != "" {
			t.Errorf("%s: DEL prints %q", name, got.stdout)
		}
	}
}

func TestCheckSaysWhetherTheSandboxIsAsAddLeftIt(t *testing.T) {
	z := &ztunnel{}
	dir := serve(t, z)
	call{verb: "CHECK", config: conf("1.1.0", dir)}.run(t).want(t, "as it was", 0)
	z.err = errors.New("sk_lookup link is gone")
	call{verb: "CHECK", config: conf("1.1.0", dir)}.run(t).want(t, "link gone", 101,
		"pod shop/web-1 is not enrolled as it should be: sk_lookup link is gone")
	call{verb: "CHECK", config: conf("1.1.0", t.TempDir())}.run(t).want(t, "nobody there", 11, "ztunnel did not answer")
}

func TestStatusIsSuccessWithoutZtunnelUnlessStrict(t *testing.T) {
	none := t.TempDir()
	call{verb: "STATUS", config: conf("1.1.0", none)}.run(t).want(t, "away", 0)
	strict := conf("1.1.0", none)
	strict["statusStrict"] = true
	call{verb: "STATUS", config: strict}.run(t).want(t, "away, strict", 50, "ztunnel does not answer")
	strict["socket"] = filepath.Join(serve(t, &ztunnel{}), "enroll.sock")
	call{verb: "STATUS", config: strict}.run(t).want(t, "there, strict", 0)
}

func TestGCSendsTheValidAttachmentsAndNeverAnAbsentList(t *testing.T) {
	z := &ztunnel{}
	dir := serve(t, z)
	c := conf("1.1.0", dir)
	delete(c, "prevResult")
	call{verb: "GC", config: c}.run(t).want(t, "no list", 7, "cni.dev/valid-attachments: missing")
	if len(z.asked) != 0 {
		t.Fatalf("ztunnel was asked to collect: %+v", <-z.asked)
	}
	c["cni.dev/valid-attachments"] = []map[string]string{{"containerID": "5f2e", "ifname": "eth0"}}
	call{verb: "GC", config: c}.run(t).want(t, "one left", 0)
	want := map[string][]enroll.Attachment{"pods": {{ContainerID: "5f2e", IfName: "eth0"}}}
	if diff := cmp.Diff(any(want), <-z.asked); diff != "" {
		t.Error(diff)
	}
	c["socket"] = filepath.Join(t.TempDir(), "enroll.sock")
	call{verb: "GC", config: c}.run(t).want(t, "away", 11, "collect garbage: ztunnel did not answer")
}

func TestVersionListsWhatChainsAndNothingElseIsPrinted(t *testing.T) {
	got := call{verb: "VERSION"}.run(t)
	got.want(t, "VERSION", 0)
	var v struct {
		CNIVersion        string
		SupportedVersions []string
	}
	if err := json.Unmarshal([]byte(got.stdout), &v); err != nil {
		t.Fatalf("%q: %v", got.stdout, err)
	}
	if !slices.Equal(v.SupportedVersions, []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}) {
		t.Errorf("supported versions %q", v.SupportedVersions)
	}
}

func TestTheLogFileSaysWhoWasRefusedAndWhy(t *testing.T) {
	dir := t.TempDir()
	c := conf("1.1.0", dir)
	c["logFile"] = filepath.Join(dir, "cni.log")
	call{verb: "ADD", config: c}.run(t).want(t, "no ztunnel", 11)
	text, err := os.ReadFile(filepath.Join(dir, "cni.log"))
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Verb, Namespace, Pod, Container string }
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if line.Level != "ERROR" || line.Verb != "ADD" || line.Namespace != "shop" || line.Pod != "web-1" ||
		line.Container != "5f2e" || !strings.Contains(line.Msg, "left no snapshot") {
		t.Errorf("%s", text)
	}
	c["logFile"] = filepath.Join(dir, "no", "such", "dir", "cni.log")
	call{verb: "DEL", config: c}.run(t).want(t, "no place for a log", 0)
}

// BenchmarkStart is what every pod of the node pays twice.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command(binary)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPeopleAreToldWhatItIsFor(t *testing.T) {
	for _, tc := range []struct {
		arg            string
		stdout, stderr string
		code           int
	}{
		{"-h", "Usage: culvert-cni [-version]\n       culvert-cni install [flags]\n       culvert-cni uninstall [flags]\n\n" +
			"A chained CNI plugin: container runtimes run it with CNI_COMMAND in the\n" +
			"environment and its config on stdin. It belongs last in the list of plugins:\n" +
			"install puts it there and keeps it there, uninstall takes it away.\n", "", 0},
		{"-x", "", "culvert-cni: flag provided but not defined: -x\nculvert-cni: hint: see culvert-cni -h\n", 2},
		{"ADD", "", "culvert-cni: unexpected argument \"ADD\"\nculvert-cni: hint: see culvert-cni -h\n", 2},
	} {
		cmd := exec.Command(binary, tc.arg)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		var exited *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
			t.Fatal(err)
		}
		if stdout.String() != tc.stdout || stderr.String() != tc.stderr || cmd.ProcessState.ExitCode() != tc.code {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", tc.arg, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String())
		}
	}
}
