// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"strings"
	"testing"
)

func TestPodsMayMountTheWorkloadAPI(t *testing.T) {
	rendered, err := template(t, "--show-only=templates/ztunnel.yaml", "--set=ztunnel.workloadAPISocket=/run/culvert-api/agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"- -workload-api-socket=/run/culvert-api/agent.sock\n", "- name: workload-api\n              mountPath: /run/culvert-api\n", "path: /run/culvert-api\n"} {
		if !strings.Contains(rendered, part) {
			t.Errorf("rendered without %q:\n%s", part, rendered)
		}
	}
	for _, socket := range []string{"/agent.sock", "/run/culvert-api/", "/run/../agent.sock", "/run//agent.sock", "run/culvert-api/agent.sock"} {
		if _, err := template(t, "--set=ztunnel.workloadAPISocket="+socket); err == nil || !strings.Contains(err.Error(), "/ztunnel/workloadAPISocket") {
			t.Errorf("%s: %v", socket, err)
		}
	}
}

func TestAWrongValueIsRefusedByItsPath(t *testing.T) {
	for value, names := range map[string]string{
		"platform=gek":                                   "/platform",
		"image.registry=example.com":                     "image",
		"image.pullPolicy=IfPresent":                     "/image/pullPolicy",
		"image.tag=-x":                                   "/image/tag",
		"mesh.trustDomain=Cluster.Local":                 "/mesh/trustDomain",
		"mesh.trustDomain=spiffe://td":                   "/mesh/trustDomain",
		"mesh.cidrs={10.0.0.0}":                          "/mesh/cidrs/0",
		"logLevel=trace":                                 "/logLevel",
		"ztunnel.memoryLimit=1G":                         "/ztunnel/memoryLimit",
		"ztunnel.memoryLimit=1073741824":                 "/ztunnel/memoryLimit",
		"ztunnel.drainSeconds=0":                         "/ztunnel/drainSeconds",
		"ztunnel.cgroup=sys/fs/cgroup":                   "/ztunnel/cgroup",
		"ztunnel.excludePorts={65536}":                   "/ztunnel/excludePorts/0",
		"ztunnel.standInCIDRs={1.0.0.0/8,a}":             "/ztunnel/standInCIDRs/1",
		"ztunnel.untaint=yes":                            "/ztunnel/untaint",
		"ztunnel.idAtSource=refuse":                      "/ztunnel/idAtSource",
		"ztunnel.keyKind=rsa":                            "/ztunnel/keyKind",
		"identity.keyKind=rsa":                           "/identity/keyKind",
		"ztunnel.idAtSourceExempt={a}":                   "/ztunnel/idAtSourceExempt/0",
		"ztunnel.maxTrustAge=1":                          "/ztunnel/maxTrustAge",
		"identity.crlConfigMap=a/b":                      "/identity/crlConfigMap",
		"ztunnel.taintAfter=1":                           "/ztunnel/taintAfter",
		"ztunnel.requests.gpu=1":                         "/ztunnel/requests",
		"ztunnel.nodeSelector.a=b":                       "/ztunnel",
		"cni.confDir=../etc":                             "/cni/confDir",
		"cni.exclusive=true":                             "/cni",
		"ztunnel.access.sample=0":                        "/ztunnel/access/sample",
		"ztunnel.access.otlpEndpoint=otel:1":             "/ztunnel/access/otlpEndpoint",
		"identity.replicas=0":                            "/identity/replicas",
		"identity.ttl=1":                                 "/identity/ttl",
		"identity.clusterTrustBundle=a:b":                "/identity/clusterTrustBundle",
		"identity.passphraseSecret=a/b":                  "/identity/passphraseSecret",
		"identity.vault.address=http://a":                "/identity/vault/address",
		"identity.vault.mount=/pki":                      "/identity/vault/mount",
		"identity.vault.issuerTTL=1":                     "/identity/vault/issuerTTL",
		"identity.signer.image=a":                        "/identity/signer/key",
		"identity.signer.key=file:a":                     "/identity/signer/key",
		"identity.signer.key=pkcs11:token=a?pin-value=1": "/identity/signer/key",
		"identity.signer.pinSecret=a/b":                  "/identity/signer/pinSecret",
		"identity.join.enabled=yes":                      "/identity/join/enabled",
		"identity.certManager.kind=X":                    "/identity/certManager/kind",
		"crds=sometimes":                                 "/crds",
		"podMonitor.labels.release=1":                    "/podMonitor/labels/release",
		"dashboards.labels.grafana=1":                    "/dashboards/labels/grafana",
		"networkPolicy.enabled=yes":                      "/networkPolicy/enabled",
		"uninstall=now":                                  "/uninstall",
		"ztunnnel.drainSeconds=5":                        "ztunnnel",
	} {
		if _, err := template(t, "--set="+value); err == nil {
			t.Errorf("%s: rendered, want a refusal", value)
		} else if !strings.Contains(err.Error(), names) {
			t.Errorf("%s: the refusal does not name %s: %v", value, names, err)
		}
	}
}
