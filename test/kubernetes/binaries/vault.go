// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// vaultSDK is a module that Vault is built with as it is in Vault's own tree, of which no module
// proxy has the version. The published one that Vault requires differs in the type of one
// function.
const vaultSDK = "github.com/hashicorp/vault/sdk"

var (
	publishedSDK = []byte("ActivationFunc func(context.Context, *logical.Request, string) error")
	treesSDK     = []byte("ActivationFunc func(context.Context, *logical.Request) error")
)

// emptied are modules that Vault gets empty packages for, and the directories of these below
// vault/empty: clients of clouds and the like, which are more than all the rest, and of which a
// server calls nothing that keeps its data in files.
var emptied = map[string]string{
	"cloud.google.com/go/cloudsqlconn":                               "cloudsqlconn",
	"cloud.google.com/go/monitoring":                                 "monitoring",
	"github.com/google/go-metrics-stackdriver":                       "stackdriver",
	"github.com/hashicorp/go-discover":                               "discover",
	"github.com/hashicorp/go-kms-wrapping/wrappers/alicloudkms/v2":   "alicloudkms",
	"github.com/hashicorp/go-kms-wrapping/wrappers/awskms/v2":        "awskms",
	"github.com/hashicorp/go-kms-wrapping/wrappers/azurekeyvault/v2": "azurekeyvault",
	"github.com/hashicorp/go-kms-wrapping/wrappers/gcpckms/v2":       "gcpckms",
	"github.com/hashicorp/go-kms-wrapping/wrappers/ocikms/v2":        "ocikms",
	"github.com/hashicorp/go-secure-stdlib/plugincontainer":          "plugincontainer",
	"github.com/hashicorp/hcp-sdk-go":                                "resource",
	"github.com/okta/okta-sdk-golang/v5":                             "okta",
	"google.golang.org/api":                                          "api",
}

// Vault returns the directory of a server of HashiCorp Vault's, vault, a static program. It is
// built and kept as those of Build, from a module of its own. module is the directory of this
// module.
func Vault(ctx context.Context, module string, out io.Writer) (string, error) {
	own := filepath.Join(module, "vault")
	var files []string
	err := fs.WalkDir(os.DirFS(own), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	key, err := moduleKey(ctx, own, fmt.Sprint(string(treesSDK), emptied), files...)
	if err != nil {
		return "", err
	}
	return cached("vault", key, func(dir string) error { return buildVault(ctx, own, dir, out) })
}

// buildVault builds the server, and then gives its directory the name dir.
func buildVault(ctx context.Context, own, dir string, out io.Writer) error {
	fmt.Fprintf(out, "building Vault, once: into %s\n", dir)
	unfinished := dir + unfinishedSuffix
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	start := time.Now()
	build := filepath.Join(unfinished, "build")
	if err := trimmedVault(ctx, own, build); err != nil {
		return err
	}
	if err := goBuild(ctx, build, "0", filepath.Join(unfinished, "vault"), "-tags=treesdk", "-ldflags=-s -w", "."); err != nil {
		return err
	}
	if err := os.RemoveAll(build); err != nil {
		return err
	}
	fmt.Fprintf(out, "built Vault in %.0f s\n", time.Since(start).Seconds())
	return os.Rename(unfinished, dir)
}

// trimmedVault copies the module in own to dir, and has the copy require the sdk of Vault's
// tree, and the empty packages.
func trimmedVault(ctx context.Context, own, dir string) error {
	published, err := moduleSource(ctx, own, vaultSDK)
	if err != nil {
		return err
	}
	sdk := filepath.Join(dir, "sdk")
	if err := errors.Join(os.CopyFS(dir, os.DirFS(own)), os.CopyFS(sdk, os.DirFS(published))); err != nil {
		return err
	}
	file := filepath.Join(sdk, "framework", "backend.go")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if bytes.Count(text, publishedSDK) != 1 {
		return fmt.Errorf("%s has not the type that is to be replaced", vaultSDK)
	}
	// The copy has the rights of the original, by which nobody may write it.
	if err := errors.Join(os.Remove(file), os.WriteFile(file, bytes.Replace(text, publishedSDK, treesSDK, 1), 0o644)); err != nil {
		return err
	}
	edit := []string{"mod", "edit", "-replace=" + vaultSDK + "=./sdk"}
	for module, empty := range emptied {
		mod := filepath.Join(dir, "empty", empty, "go.mod")
		if err := os.WriteFile(mod, []byte("module "+module+"\n\ngo 1.27.0\n"), 0o644); err != nil {
			return err
		}
		edit = append(edit, "-replace="+module+"=./empty/"+empty)
	}
	if said, err := goCommand(ctx, dir, edit...).CombinedOutput(); err != nil {
		return fmt.Errorf("go mod edit: %w\n%s", err, said)
	}
	return nil
}
