// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// paper is a lab without a machine: a cluster written to two directories.
func paper(t *testing.T) (l *Lab, one, two string) {
	t.Helper()
	l = &Lab{cluster: newCluster()}
	one, two = filepath.Join(t.TempDir(), "yaml"), filepath.Join(t.TempDir(), "yaml")
	for _, dir := range []string{one, two} {
		if err := l.cluster.join(view{dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	return l, one, two
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestEveryDirectoryHasEveryObject(t *testing.T) {
	l, one, two := paper(t)
	if err := l.Namespace("shop", nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Label("shop", "culvert.dev/mesh", "enabled"); err != nil {
		t.Fatal(err)
	}
	const policies = "---\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\n---\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\n"
	if err := l.Apply(policies); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"namespace.shop.yaml", "peerauthentication.istio-system.default.yaml",
		"peerauthentication.shop.default.yaml", "serviceaccount.shop.default.yaml",
	}
	late := filepath.Join(t.TempDir(), "yaml")
	if err := l.cluster.join(view{dir: late}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{one, two, late} {
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("%s holds %v, want %v", dir, got, want)
		}
		text, err := os.ReadFile(filepath.Join(dir, "namespace.shop.yaml"))
		if err != nil || !strings.Contains(string(text), "culvert.dev/mesh: enabled") {
			t.Errorf("namespace: %s, %v", text, err)
		}
	}
	if err := l.Delete("PeerAuthentication", "shop", "default"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, two); slices.Contains(got, "peerauthentication.shop.default.yaml") {
		t.Errorf("after Delete: %v", got)
	}
}

func TestEndpointsFollowPodsAndTheirNamedPorts(t *testing.T) {
	l, dir, _ := paper(t)
	pod := func(name, ip string, port int32, ready corev1.ConditionStatus) {
		l.cluster.pods[name] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port}}}}},
			Status: corev1.PodStatus{
				PodIPs:     []corev1.PodIP{{IP: ip}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
			},
		}
	}
	pod("a", "10.77.1.2", 8080, corev1.ConditionTrue)
	pod("b", "10.77.1.3", 9090, corev1.ConditionFalse)
	svc, err := l.Service(ServiceSpec{
		Namespace: "shop", Name: "web", Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if svc.IP4.String() != "10.78.0.1" || svc.IP6.String() != "fd78::1" {
		t.Errorf("service %v", svc)
	}
	read := func(name string) (slice discoveryv1.EndpointSlice) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = yaml.UnmarshalStrict(text, &slice)
		}
		if err != nil {
			t.Fatal(err)
		}
		return slice
	}
	a, b := read("endpointslice.shop.web.ipv4-8080.yaml"), read("endpointslice.shop.web.ipv4-9090.yaml")
	if a.Endpoints[0].Addresses[0] != "10.77.1.2" || !*a.Endpoints[0].Conditions.Ready || *a.Ports[0].Port != 8080 {
		t.Errorf("slice %+v", a)
	}
	if *b.Endpoints[0].Conditions.Ready {
		t.Errorf("slice %+v: its pod is not ready", b)
	}
	delete(l.cluster.pods, "b")
	if err := l.cluster.reconcile("shop"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); slices.Contains(got, "endpointslice.shop.web.ipv4-9090.yaml") {
		t.Errorf("after its pod went: %v", got)
	}
	if err := l.Delete("Service", "shop", "web"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("after the service went: %v", got)
	}
}

func TestTokensAreAsAKubeletProjectsThem(t *testing.T) {
	keys, err := newTokens(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{tokens: keys}
	text, err := l.Token("node1", func(claims map[string]any) { claims["spoilt"] = true })
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := keys.jwks()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := yaml.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	var claims struct {
		jwt.Claims
		Spoilt     bool `json:"spoilt"`
		Kubernetes struct {
			Namespace string            `json:"namespace"`
			Node      map[string]string `json:"node"`
			Account   map[string]string `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if err := token.Claims(set, &claims); err != nil {
		t.Fatal(err)
	}
	k := claims.Kubernetes
	if k.Namespace != "culvert-system" || k.Node["name"] != "node1" || k.Node["uid"] == "" || k.Account["name"] != "ztunnel" || !claims.Spoilt {
		t.Errorf("claims %+v", claims)
	}
	if err := claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{"culvert-identity"}}); err != nil {
		t.Error(err)
	}
}
