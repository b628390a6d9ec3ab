// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// spire is the module that SPIRE's programs are of.
const spire = "github.com/spiffe/spire"

// SPIRE returns the directory of SPIRE's spire-server and spire-agent, static programs. They
// are built and kept as those of Build, from a module of their own. Of the plugins that are
// compiled into them they have those that our tests use. module is the directory of this
// module.
func SPIRE(ctx context.Context, module string, out io.Writer) (string, error) {
	own, err := filepath.Abs(filepath.Join(module, "spire"))
	if err != nil {
		return "", err
	}
	key, err := moduleKey(ctx, own, fmt.Sprint(spirePlugins, unsigned), "go.mod", "go.sum")
	if err != nil {
		return "", err
	}
	return cached("spire", key, func(dir string) error { return buildSPIRE(ctx, own, dir, out) })
}

// buildSPIRE builds the programs, and then gives their directory the name dir.
func buildSPIRE(ctx context.Context, own, dir string, out io.Writer) error {
	fmt.Fprintf(out, "building SPIRE, once: into %s\n", dir)
	unfinished := dir + unfinishedSuffix
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	start := time.Now()
	mod, err := trimmed(ctx, own, filepath.Join(unfinished, "build"))
	if err != nil {
		return err
	}
	// The server's database, SQLite, is in C.
	if err := goBuild(ctx, own, "1", unfinished+"/", "-modfile="+mod, "-tags=netgo,osusergo", `-ldflags=-s -w -linkmode external -extldflags "-static"`,
		spire+"/cmd/spire-server", spire+"/cmd/spire-agent"); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(unfinished, "build")); err != nil {
		return err
	}
	fmt.Fprintf(out, "built SPIRE in %.0f s\n", time.Since(start).Seconds())
	return os.Rename(unfinished, dir)
}

// spirePlugins are the plugins that stay, by kind. The others need the SDKs of clouds, which
// take several times as long to compile as all the rest.
var spirePlugins = map[string][]string{
	"bundlepublisher":   {},
	"keymanager":        {"disk", "memory"},
	"nodeattestor":      {"jointoken", "k8spsat", "x509pop"},
	"notifier":          {},
	"svidstore":         {},
	"upstreamauthority": {"certmanager", "disk"},
	"workloadattestor":  {"k8s", "unix"},
}

// unsigned stands for what verifies signatures of images, which the workload attestor "k8s"
// does only if it is told to: its libraries are as many as SPIRE's own.
const unsigned = `package sigstore

import (
	"context"
	"errors"
)

type Verifier interface {
	Verify(ctx context.Context, imageID string) ([]string, error)
}

type ImageVerifier struct{}

func NewVerifier(*Config) *ImageVerifier { return &ImageVerifier{} }

func (*ImageVerifier) Init(context.Context) error { return errors.New("it is not in this build") }

func (*ImageVerifier) Verify(context.Context, string) ([]string, error) {
	return nil, errors.New("it is not in this build")
}
`

// trimmed copies SPIRE's sources below dir, leaves out of the lists of plugins those that do
// not stay, and what verifies images. It returns the go.mod by which the copy is built.
func trimmed(ctx context.Context, own, dir string) (mod string, err error) {
	source, err := moduleSource(ctx, own, spire)
	if err != nil {
		return "", err
	}
	replaced := filepath.Join(dir, "spire")
	if err := os.CopyFS(replaced, os.DirFS(source)); err != nil {
		return "", err
	}
	for kind := range spirePlugins {
		lists, err := filepath.Glob(filepath.Join(replaced, "pkg/*/catalog", kind+".go"))
		if err != nil || len(lists) == 0 {
			return "", fmt.Errorf("%s has no list of plugins of the kind %s: %v", spire, kind, err)
		}
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err = errors.Join(err, os.WriteFile(list, trimPlugins(text, kind), 0o644)); err != nil {
				return "", err
			}
		}
	}
	verifier := filepath.Join(replaced, "pkg/agent/common/sigstore/sigstore.go")
	if err := errors.Join(os.Remove(verifier), os.WriteFile(verifier, []byte(unsigned), 0o644)); err != nil {
		return "", err
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(own, file))
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), text, 0o644)); err != nil {
			return "", err
		}
	}
	mod = filepath.Join(dir, "go.mod")
	edit := goCommand(ctx, own, "mod", "edit", "-replace="+spire+"="+replaced, "-replace=github.com/Keyfactor/ejbca-go-client-sdk="+filepath.Join(own, "ejbca"), mod)
	if said, err := edit.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod edit %s: %w\n%s", mod, err, said)
	}
	return mod, nil
}

var (
	pluginImport = regexp.MustCompile(`^\t(?:(\w+) )?"` + spire + `/pkg/\w+/plugin/(\w+)/(\w+)"$`)
	pluginUse    = regexp.MustCompile(`^\t\t(\w+)\.BuiltIn\(\),$`)
)

// trimPlugins leaves out of a catalog's file what imports and lists plugins of a kind that
// do not stay.
func trimPlugins(text []byte, kind string) []byte {
	var kept strings.Builder
	gone := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimSuffix(line, "\n")
		if m := pluginImport.FindStringSubmatch(bare); m != nil && m[2] == kind && !slices.Contains(spirePlugins[kind], m[3]) {
			name := m[1]
			if name == "" {
				name = m[3]
			}
			gone[name] = true
			continue
		}
		if m := pluginUse.FindStringSubmatch(bare); m != nil && gone[m[1]] {
			continue
		}
		kept.WriteString(line)
	}
	return []byte(kept.String())
}
