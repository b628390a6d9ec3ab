// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cmd/program/programtest"
	"github.com/culvert-mesh/culvert/test/env"
)

// directories are a node's: of configs, of plugins, of what libcni remembers.
type directories struct{ conf, bin, cache string }

func newDirectories(t *testing.T) directories {
	t.Helper()
	root := t.TempDir()
	d := directories{filepath.Join(root, "net.d"), filepath.Join(root, "bin"), filepath.Join(root, "cache")}
	for _, dir := range []string{d.conf, d.bin, d.cache} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

const before = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}`

func TestItInstallsItselfServesAndUninstalls(t *testing.T) {
	t.Parallel() // uninstall waits
	d := newDirectories(t)
	conf := filepath.Join(d.conf, "10-pods.conflist")
	if err := os.WriteFile(conf, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	address := env.Address(t)
	cmd := exec.CommandContext(t.Context(), binary, "install", "-conf-dir", d.conf, "-bin-dir", d.bin, "-metrics-address", address,
		"-socket", "/run/c/enroll.sock", "-own-pod", "culvert-system/ztunnel-", "-plugin-log", "/var/log/c.log", "-status-strict")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	await(t, "ready", func() bool {
		reply, err := client.Get("http://" + address + "/healthz/ready")
		if err != nil {
			return false
		}
		reply.Body.Close()
		return reply.StatusCode == http.StatusOK
	})
	want := strings.TrimSuffix(before, "]}") + `,{"type":"culvert-cni","socket":"/run/c/enroll.sock","ownPod":"culvert-system/ztunnel-","logFile":"/var/log/c.log","statusStrict":true}]}`
	if got, err := os.ReadFile(conf); string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("at SIGTERM: %v", err)
	}
	if got, err := os.ReadFile(conf); string(got) != want {
		t.Errorf("after SIGTERM: %s, %v", got, err)
	}
	runs := exec.Command(filepath.Join(d.bin, "culvert-cni"))
	runs.Env = []string{"CNI_COMMAND=VERSION"}
	if out, err := runs.Output(); err != nil || !strings.Contains(string(out), "supportedVersions") {
		t.Errorf("what it installed does not run: %s, %v", out, err)
	}

	start := time.Now()
	if out, err := exec.Command(binary, "uninstall", "-conf-dir", d.conf, "-bin-dir", d.bin, "-cache-dir", d.cache).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if took := time.Since(start); took < 6*time.Second {
		t.Errorf("it gave runtimes %v", took)
	}
	if got, err := os.ReadFile(conf); string(got) != before {
		t.Errorf("uninstalled: %s, %v", got, err)
	}
	if left, err := os.ReadDir(d.bin); len(left) != 0 {
		t.Errorf("uninstalled: %v, %v", left, err)
	}
}

func TestAnUninstallThatStaysEndsBySIGTERM(t *testing.T) {
	d := newDirectories(t)
	program := filepath.Join(d.bin, "culvert-cni")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "uninstall", "-stay", "-conf-dir", d.conf, "-bin-dir", d.bin, "-cache-dir", d.cache)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "removed", func() bool { _, err := os.Stat(program); return os.IsNotExist(err) })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("at SIGTERM: %v", err)
	}
}

func TestAMissingDirectoryIsRefusedByItsFlag(t *testing.T) {
	d := newDirectories(t)
	for _, tc := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"install", "-conf-dir", d.conf + "/no", "-bin-dir", d.bin}, "culvert-cni install: conf-dir: " + d.conf + "/no: no such file or directory\n", 1},
		{[]string{"install", "-conf-dir", d.conf, "-bin-dir", "bin"}, `culvert-cni install: invalid value "bin" for flag -bin-dir: want an absolute path`, 2},
		{[]string{"install", "now"}, `culvert-cni install: unexpected argument "now"`, 2},
		{[]string{"install", "-x"}, "culvert-cni install: hint: see culvert-cni install -h\n", 2},
		{[]string{"uninstall", "-conf-dir", d.conf, "-bin-dir", d.bin, "-cache-dir", d.cache + "/no"}, "culvert-cni uninstall: cache-dir: " + d.cache + "/no: no such file or directory\n", 1},
	} {
		out, err := exec.Command(binary, tc.args...).CombinedOutput()
		var exited *exec.ExitError
		if !errors.As(err, &exited) || exited.ExitCode() != tc.code || !strings.Contains(string(out), tc.want) {
			t.Errorf("%q: %v, %s, want %q", tc.args, err, out, tc.want)
		}
	}
}

func TestHelpOfInstallAndUninstall(t *testing.T) {
	for _, what := range []string{"install", "uninstall"} {
		want, err := os.ReadFile(filepath.Join("testdata", what+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := exec.Command(binary, what, "-h").Output(); string(got) != string(want) {
			t.Errorf("%s -h: %v\n%s", what, err, got)
		}
	}
}

var (
	wrongPath = [][2]string{{"a/b", "want an absolute path"}, {"./x", "want an absolute path"}, {"/a\x00b", "NUL"}}
	wrong     = map[string][][2]string{
		"conf-dir":  wrongPath,
		"bin-dir":   wrongPath,
		"cache-dir": wrongPath,
		"socket":    append(wrongPath, [2]string{"/" + strings.Repeat("x", 107), "108 bytes"}), "plugin-log": wrongPath,
		"own-pod":         {{"ztunnel-", "want namespace/name"}, {"A/b", "want namespace/name"}, {"a/b/c", "want namespace/name"}},
		"metrics-address": {{"15022", "did you mean :15022?"}, {":0", "not a port"}},
		"stay":            {{"yes", "want true or false"}},
		"status-strict":   {{"yes", "want true or false"}},
		"log-level":       {{"verbose", "want debug, info, warn or error"}},
		"log-format":      {{"xml", "want json or text"}},
		"version":         {{"maybe", "parse error"}},
	}
)

func TestEveryFlagRefusesWhatIsWrong(t *testing.T) {
	for _, define := range []func(p *program.Program){
		func(p *program.Program) { new(installation).define(p.Flags) },
		func(p *program.Program) { new(removal).define(p.Flags) },
	} {
		p := program.New("culvert-cni install", installUsage)
		define(p)
		programtest.RefusesWrongFlags(t, p.Flags, wrong, func(args ...string) error { return p.Flags.Parse(args) })
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); !done(); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("%s: not in 20 s", what)
		}
	}
}
