// SPDX-License-Identifier: Apache-2.0

// Package binaries builds the programs of the test cluster from the modules that its
// go.mod pins, and keeps them: building takes minutes, and 256 MB of results spare 4 GB
// of Go's build cache.
package binaries

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	own        = "github.com/culvert-mesh/culvert/test/kubernetes/"
	containerd = "github.com/containerd/containerd/v2/cmd/"
	plugins    = "github.com/containernetworking/plugins/plugins/"
)

// program is what one go build makes.
type program struct {
	name     string // for people
	packages []string
	tags     string
	cgo      bool
}

// programs is all that a cluster runs. One go build makes all but runc: while it links one
// program, which takes one processor, it compiles for the others. runc needs cgo for
// seccomp, and every pod a seccomp profile.
var programs = []program{
	{name: "runc", packages: []string{"github.com/opencontainers/runc"}, tags: "seccomp", cgo: true},
	{name: "Kubernetes, etcd, CoreDNS, containerd and CNI plugins", tags: "no_btrfs,no_devmapper,no_zfs,no_aufs", packages: []string{
		own + "kubeall", own + "coredns", own + "pause", own + "unlimited",
		containerd + "containerd", containerd + "containerd-shim-runc-v2", containerd + "ctr",
		plugins + "main/bridge", plugins + "main/loopback", plugins + "ipam/host-local", plugins + "meta/portmap"}},
}

// called are the names by which kubeall is called.
var called = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"}

// flags are those of every build. Others would share nothing in Go's build cache.
// Without DWARF it is a seventh faster.
var flags = []string{"-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"}

// Build returns the directory of the programs, and of the images pause.tar and
// coredns.tar: those of an earlier build of the same sources by the same Go in the user's
// cache directory, or else new ones. module is the directory of this module. It tells out
// what it builds. Builds that nobody uses any more are removed from the cache.
func Build(ctx context.Context, module string, out io.Writer) (string, error) {
	key, err := cacheKey(ctx, module)
	if err != nil {
		return "", err
	}
	return cached("kubernetes", key, func(dir string) error { return build(ctx, module, dir, out) })
}

// cached returns the directory of that key among those of a kind, which make fills if there
// is none. Those of the kind that nobody uses any more are removed.
func cached(kind, key string, make func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "culvert", kind, key)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+lockSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if !exists(dir) {
		if err := make(dir); err != nil {
			return "", err
		}
	}
	return dir, used(dir)
}

// build builds all programs, and then gives their directory the name dir.
func build(ctx context.Context, module, dir string, out io.Writer) error {
	if err := needsSeccomp(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "building Kubernetes, once: it took 13 minutes on two cores; into %s\n", dir)
	unfinished := dir + unfinishedSuffix
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	for _, p := range programs {
		if err := p.build(ctx, module, unfinished, out); err != nil {
			return err
		}
	}
	for _, name := range called {
		if err := os.Symlink("kubeall", filepath.Join(unfinished, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"pause", "coredns"} {
		program := filepath.Join(unfinished, name)
		if err := Archive(ctx, module, program, filepath.Join(unfinished, name+".tar")); err != nil {
			return err
		}
		if err := os.Remove(program); err != nil {
			return err
		}
	}
	return os.Rename(unfinished, dir)
}

// Archive makes the image localhost/NAME:1 of a static program, by the recipe of
// Culvert's own images.
func Archive(ctx context.Context, module, program, archive string) error {
	name := "localhost/" + filepath.Base(program) + ":1"
	cmd := runImages(ctx, module, "archive", "-name", name, "-out", archive, program)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make image %s: %w\n%s", name, err, out)
	}
	return nil
}

// Culvert builds the images of Culvert from the sources that this module is part of into
// dir.
func Culvert(ctx context.Context, module, dir string) error {
	cmd := runImages(ctx, module, "build", "-out", dir, "-arch", runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build Culvert's images: %w\n%s", err, out)
	}
	return nil
}

// runImages runs the recipe of images, built by the flags by which the standard library is
// compiled already.
func runImages(ctx context.Context, module string, args ...string) *exec.Cmd {
	args = append(append([]string{"run"}, flags...), append([]string{"./deploy/images"}, args...)...)
	cmd := goCommand(ctx, filepath.Join(module, "../.."), args...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	return cmd
}

// Podapp builds the image of the program that test pods run into dir, as podapp.tar. It is
// small, and changes more often than the rest: it is not kept.
func Podapp(ctx context.Context, module, dir string) error {
	program := filepath.Join(dir, "podapp")
	cmd := goCommand(ctx, module, append([]string{"build", "-o", program}, append(flags, own+"podapp")...)...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build podapp: %w\n%s", err, out)
	}
	return Archive(ctx, module, program, program+".tar")
}

// cacheKey names all that decides what is built: what the modules are, our own sources,
// Go and its flags.
func cacheKey(ctx context.Context, module string) (string, error) {
	version, err := goCommand(ctx, module, "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOVERSION: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %q %+v\n", version, runtime.GOARCH, flags, programs)
	for _, file := range []string{"go.mod", "go.sum", "coredns/main.go", "kubeall/main.go", "pause/main.go", "unlimited/main.go"} {
		text, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", file, len(text), text)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}

// goCommand runs the Go that go.mod names, and nothing of the caller's flags. Compilers
// live for a second and collect garbage for a quarter of it, if they are let.
func goCommand(ctx context.Context, module string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=auto", "GOFLAGS=", "GOWORK=off", "GOGC=off", "GOMEMLIMIT=1536MiB")
	return cmd
}

// needsSeccomp says what to install before minutes have passed.
func needsSeccomp(ctx context.Context) error {
	if err := exec.CommandContext(ctx, "pkg-config", "--exists", "libseccomp").Run(); err != nil {
		return fmt.Errorf("runc is built with libseccomp: install libseccomp-dev, pkg-config and gcc (pkg-config --exists libseccomp: %w)", err)
	}
	return nil
}

func (p program) build(ctx context.Context, module, dir string, out io.Writer) error {
	version, err := versionFlags(ctx, module)
	if err != nil {
		return err
	}
	args := append([]string{"build", "-v", "-o", dir + "/", "-tags", p.tags, "-ldflags", "-s -w" + version}, flags...)
	cmd := goCommand(ctx, module, append(args, p.packages...)...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	if p.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	start := time.Now()
	if err := p.compile(cmd, out, start); err != nil {
		return err
	}
	fmt.Fprintf(out, "built %s in %.0f s\n", p.name, time.Since(start).Seconds())
	return nil
}

// compile runs go build -v, which names each package, and counts them twice a minute.
func (p program) compile(cmd *exec.Cmd, out io.Writer, start time.Time) error {
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var complaints []string
	var packages int
	told := start
	for lines := bufio.NewScanner(said); lines.Scan(); {
		line := lines.Text()
		if strings.ContainsAny(line, " \t#") && !strings.HasPrefix(line, "go: downloading") {
			complaints = append(complaints, line)
		}
		packages++
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			fmt.Fprintf(out, "building %s: %d packages in %.0f s\n", p.name, packages, time.Since(start).Seconds())
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.name, err, strings.Join(complaints, "\n"))
	}
	return nil
}

// versionFlags make the programs of Kubernetes tell their version: its release script
// sets it, and without it each says v0.0.0.
func versionFlags(ctx context.Context, module string) (string, error) {
	out, err := goCommand(ctx, module, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m k8s.io/kubernetes: %w", err)
	}
	version := strings.TrimSpace(string(out))
	numbers := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(numbers) < 3 {
		return "", fmt.Errorf("k8s.io/kubernetes has version %q", version)
	}
	var all strings.Builder
	for _, path := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&all, " -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean",
			path, version, numbers[0], numbers[1])
	}
	return all.String(), nil
}
