// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"time"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/vault"
)

// upstream is what the flags say of Vault.
type upstream struct {
	vault.Options
	ttl time.Duration
}

func (u *upstream) define(flags *flag.FlagSet) {
	program.Var(flags, &u.Address, "vault", "", "`URL` of the Vault that has the root, and signs the issuer of a CA that is made (default: root and issuer are made here)", vault.Address)
	program.Var(flags, &u.Mount, "vault-mount", "pki", "`path` where Vault's PKI engine is mounted", vault.Mount)
	program.Var(flags, &u.CA, "vault-ca", "", "`file` of the roots in PEM that vouch for the server of -vault (default those of the system)", program.Path)
	program.Var(flags, &u.TokenFile, "vault-token-file", "", "`file` of a token for Vault, read for each question; this or -vault-role is required with -vault", program.Path)
	program.Var(flags, &u.Role, "vault-role", "", "`role` of Vault's Kubernetes auth method", program.Word)
	program.Var(flags, &u.AuthMount, "vault-auth-mount", "kubernetes", "`path` where that auth method is mounted", vault.Mount)
	program.Var(flags, &u.JWTFile, "vault-jwt-file", "", "`file` of our ServiceAccount's token for Vault, read for each login; required with -vault-role", program.Path)
	program.Var(flags, &u.ttl, "vault-issuer-ttl", "2160h", "`lifetime` that Vault is asked for, 1h to 87600h; it may give less", program.Duration(time.Hour, 87600*time.Hour))
}

// problems are what does not fit together.
func (u *upstream) problems() error {
	if u.Address == "" {
		if u.TokenFile != "" || u.Role != "" || u.JWTFile != "" || u.CA != "" {
			return errors.New("-vault is required with -vault-token-file, -vault-role, -vault-jwt-file and -vault-ca")
		}
		return nil
	}
	if _, err := vault.New(u.Options); err != nil {
		return errors.New("-vault-token-file, or -vault-role with -vault-jwt-file, is required with -vault, not both")
	}
	return nil
}

// options has Vault sign the issuers of a CA, if there is one.
func (u *upstream) options(o *ca.Options) error {
	if u.Address == "" {
		return nil
	}
	up, err := vault.New(u.Options)
	if err != nil {
		return refused("vault", err)
	}
	o.Upstream, o.IssuerTTL = up, u.ttl
	return nil
}
