// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	module  = "github.com/culvert-mesh/culvert"
	plugins = "github.com/containernetworking/plugins/plugins/"
)

// build brings <repo>/bin up to date and returns it: the lab's app, the
// reference CNI plugins in bin/cni and, for a mesh, the programs under cmd.
func build(ctx context.Context, mesh bool) (string, error) {
	repo, err := repository()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(repo, "bin")
	cni := filepath.Join(bin, "cni")
	lock, err := lockDir(cni)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	own := []string{"./test/lab/app"}
	if mesh {
		own = append(own, "./cmd/...")
	}
	return bin, errors.Join(
		goBuild(ctx, repo, bin, own...),
		goBuild(ctx, filepath.Join(repo, "tools"), cni,
			plugins+"main/loopback", plugins+"main/ptp", plugins+"main/bridge", plugins+"ipam/host-local"),
	)
}

// buildTagged builds ztunnel with build tags, into a directory of its own, and
// returns its path.
func buildTagged(ctx context.Context, tags string) (string, error) {
	repo, err := repository()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(repo, "bin", tags)
	lock, err := lockDir(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	return filepath.Join(dir, "ztunnel"), goBuild(ctx, repo, dir, "-tags", tags, "./cmd/ztunnel")
}

// lockDir makes a directory and keeps others from building into it until what
// it returns is closed: two test binaries would otherwise write the same files.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), lock.Close())
	}
	return lock, nil
}

// built are the builds that this process has done. For each, go build would
// take most of a second to find that there is nothing to do, and a test binary
// makes a lab for each of a hundred tests.
var built sync.Map

// goBuild builds packages into dir, as the module at root names them, once per
// process: it has the programs of the sources that it began with.
func goBuild(ctx context.Context, root, dir string, args ...string) error {
	key := strings.Join(append([]string{root, dir}, args...), " ")
	if _, done := built.Load(key); done {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + "/"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", strings.Join(args, " "), err, out)
	}
	built.Store(key, true)
	return nil
}

// repository is the root of this repository: above the working directory, as
// in go test and go run, or else above this file.
func repository() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{wd, filepath.Dir(file)} {
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(mod), "module "+module+"\n") {
				return dir, nil
			}
		}
	}
	return "", errors.New("the lab builds what it runs: start it within the repository")
}
