// SPDX-License-Identifier: Apache-2.0

//go:build treesdk

// Command vault is HashiCorp Vault's server with what our tests use of it: its core, with
// storage in files and unsealing by shares, its HTTP API, the PKI secrets engine, and the auth
// methods token, AppRole and Kubernetes. Vault's own command has the clients of all clouds.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

func main() {
	storage := flag.String("storage", "", "`directory` of what it keeps; required")
	listen := flag.String("listen", "127.0.0.1:8200", "`address` of its API")
	cert := flag.String("cert", "", "`file` of the API's certificate; required")
	key := flag.String("key", "", "`file` of the certificate's key; required")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *storage, *listen, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

// run serves the API until ctx ends. As Vault's own server it begins sealed.
func run(ctx context.Context, storage, listen, cert, key string) error {
	log := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.Info, Mutex: &sync.Mutex{}})
	log.Info("begins", "version", version.GetVersion().FullVersionNumber(true))
	physical, err := file.NewFileBackend(map[string]string{"path": storage}, log)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: physical, StorageType: "file", DisableMlock: true, Logger: log,
		RedirectAddr: "https://" + listen, BuiltinRegistry: registry{},
		LogicalBackends: secrets, CredentialBackends: methods,
		RawConfig: &server.Config{SharedConfig: &configutil.SharedConfig{}},
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	api := &http.Server{Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core: core, ListenerConfig: &configutil.Listener{},
	})}
	done := make(chan error, 1)
	go func() { done <- api.ServeTLS(ln, cert, key) }()
	select {
	case <-ctx.Done():
	case err = <-done:
	}
	api.Close()
	if ended := core.ShutdownWait(); err == nil {
		err = ended
	}
	return err
}

// What can be mounted. Vault itself adds its token method, identities and the like.
var (
	secrets = map[string]logical.Factory{"pki": pki.Factory}
	methods = map[string]logical.Factory{"approle": approle.Factory, "kubernetes": kubernetes.Factory}
)

// registry lists them as plugins that are built in.
type registry struct{}

func of(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return secrets
	case consts.PluginTypeCredential:
		return methods
	}
	return nil
}

func (registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory, is := of(kind)[name]
	return func() (any, error) { return factory, nil }, is
}

func (registry) Contains(name string, kind consts.PluginType) bool {
	_, is := of(kind)[name]
	return is
}

func (registry) Keys(kind consts.PluginType) (names []string) {
	for name := range of(kind) {
		names = append(names, name)
	}
	return names
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
