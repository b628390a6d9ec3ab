// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"strings"
	"testing"
)

func TestVaultIsAskedByTheServiceAccount(t *testing.T) {
	rendered, err := template(t, "--set=identity.vault.address=https://vault.example:8200,identity.vault.caConfigMap=vault-ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- -vault=https://vault.example:8200\n", "- -vault-role=culvert\n", "- -vault-jwt-file=/run/culvert/vault/token\n", "- -vault-ca=/run/culvert/vault/ca.crt\n",
		"mountPath: /run/culvert/vault\n", "audience: vault\n", "name: vault-ca\n",
	} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q", want)
		}
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "-vault") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
}

func TestASignerRunsBesideTheCA(t *testing.T) {
	rendered, err := template(t, "--set=identity.signer.image=registry.example/signer:1,identity.signer.pinSecret=hsm-pin",
		"--set-string=identity.signer.key=pkcs11:token=culvert;object=issuer?pin-source=file:/run/culvert-pin/pin")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"image: registry.example/signer:1\n", "- -key=pkcs11:token=culvert;object=issuer?pin-source=file:/run/culvert-pin/pin\n",
		"- -socket=/run/culvert-signer/private/issuer.sock\n", "secretName: hsm-pin\n", "fsGroup: 65532\n",
	} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(rendered, "mountPath: /run/culvert-signer\n"); n != 2 {
		t.Errorf("the socket is mounted %d times, want in both containers", n)
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "signer") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
}
