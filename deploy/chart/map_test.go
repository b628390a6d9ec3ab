// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"strings"
	"testing"
)

func TestTheMapIsForWhoeverAsksForIt(t *testing.T) {
	rendered, err := template(t)
	if err != nil || strings.Contains(rendered, "culvert-map") {
		t.Errorf("without map.enabled: %v, a map", err)
	}
}

// Tokens come to it: in plaintext it must be on its pod's loopback alone.
func TestTheMapLeavesItsPodInTLSAlone(t *testing.T) {
	rendered, err := template(t, "--set=map.enabled=true,networkPolicy.enabled=true", "--show-only=templates/map.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rendered, "- --listen=127.0.0.1:15080\n") || !strings.Contains(rendered, "- --token-review\n") || strings.Contains(rendered, "kind: Service\n") || strings.Contains(rendered, "15443") {
		t.Errorf("without a certificate:\n%s", rendered)
	}
	rendered, err = template(t, "--set=map.enabled=true,networkPolicy.enabled=true,map.tlsSecret=map-tls,map.hosts={map.example.com}", "--show-only=templates/map.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- --listen=:15443\n", "- --tls-cert=/run/culvert/tls/tls.crt\n", "- --host=map.example.com\n", "- --host=culvert-map.culvert-system.svc\n", "kind: Service\n", "secretName: map-tls\n", "        - port: 15443\n"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("with one: no %q in\n%s", want, rendered)
		}
	}
}

func TestTheMapMayReadAndReviewAndNothingElse(t *testing.T) {
	rendered, err := template(t, "--set=map.enabled=true", "--show-only=templates/map.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rights []string
	for line := range strings.Lines(rendered) {
		if resources, ok := strings.CutPrefix(strings.TrimSpace(line), "resources: ["); ok {
			rights = append(rights, strings.TrimSuffix(resources, "]"))
		}
		if verbs, ok := strings.CutPrefix(strings.TrimSpace(line), "verbs: ["); ok {
			rights[len(rights)-1] += " " + strings.TrimSuffix(verbs, "]")
		}
	}
	want := "tokenreviews create; subjectaccessreviews create; pods list; pods/portforward get, create"
	if got := strings.Join(rights, "; "); got != want {
		t.Errorf("rights %q, want %q", got, want)
	}
}

func TestAWrongValueOfTheMapIsRefusedByItsPath(t *testing.T) {
	for value, path := range map[string]string{
		"map.enabled=yes": "/map/enabled", "map.every=5": "/map/every", "map.tlsSecret=A_b": "/map/tlsSecret", "map.hosts={https://x}": "/map/hosts/0", "map.replicas=2": "/map",
		"map.every=500ms": "/map/every", "map.every=2m": "/map/every", "map.every=61s": "/map/every", "map.every=0s": "/map/every",
		"map.hosts={map.example.com}": "/map/tlsSecret", "map.tokenAudience=a b": "/map/tokenAudience",
	} {
		if _, err := template(t, "--set="+value); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %s", value, err, path)
		}
	}
}

func TestTheMapTakesTokensThatAreForItAlone(t *testing.T) {
	for value, want := range map[string]string{"map.every=1m": "- --token-audience=culvert-map\n", "map.tokenAudience=": "- --token-audience=\n"} {
		rendered, err := template(t, "--set=map.enabled=true,"+value, "--show-only=templates/map.yaml")
		if err != nil || !strings.Contains(rendered, want) {
			t.Errorf("%s: %v, no %q in\n%s", value, err, want, rendered)
		}
	}
}
