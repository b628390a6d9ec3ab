// SPDX-License-Identifier: Apache-2.0

// Package kubeapi asks a Kubernetes API server for single objects, with an operator's
// kubeconfig.
//
// It is a few paths and JSON: client-go's generated clients would bring every kind there
// is into the program.
package kubeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// API is an API server. Its errors are those of k8s.io/apimachinery/pkg/api/errors.
type API struct {
	Config *rest.Config
	client rest.Interface
}

// Open returns the API server that a kubeconfig and a context lead to. Empty ones mean
// what they mean to kubectl.
func Open(kubeconfig, kubecontext string) (*API, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: kubecontext}).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("find a cluster: there is no kubeconfig, by $KUBECONFIG or in ~/.kube/config, and this is no pod")
	} else if err != nil {
		return nil, fmt.Errorf("find a cluster: %v", err)
	}
	config.UserAgent, config.QPS, config.Burst, config.Timeout = "culvert", 50, 100, time.Minute
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // for errors
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("find a cluster: %v", err)
	}
	return &API{Config: config, client: client}, nil
}

// Contexts are the names that a kubeconfig has, in no order; none if it cannot be read.
// An empty path means what it means to kubectl.
func Contexts(kubeconfig string) (names []string) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil
	}
	for name := range config.Contexts {
		names = append(names, name)
	}
	return names
}

// URL is where a path of the API server is.
func (a *API) URL(path string) *url.URL { return a.client.Get().AbsPath(path).URL() }

// do sends in, if it is not nil, and reads the answer into out.
func (a *API) do(ctx context.Context, verb, path string, query url.Values, in, out any) error {
	request := a.client.Verb(verb).AbsPath(path)
	for name, values := range query {
		request.Param(name, values[0])
	}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		request.Body(body).SetHeader("Content-Type", runtime.ContentTypeJSON)
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil { // Raw does not read what the server says of it
		return err
	}
	answer, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the answer to %s %s: %v", verb, path, err)
	}
	return nil
}

// Pods are those of a namespace, or of all if it is empty, with these labels, as kubectl -l
// writes them.
func (a *API) Pods(ctx context.Context, namespace, labels string) ([]corev1.Pod, error) {
	path := "/api/v1/pods"
	if namespace != "" {
		path = Path(namespace, "pods", "")
	}
	var list corev1.PodList
	err := a.do(ctx, "GET", path, url.Values{"labelSelector": {labels}}, nil, &list)
	return list.Items, err
}

// Log returns the end of what a container of a pod has logged, or, if previous, of what the
// one before it had: so many bytes at most.
func (a *API) Log(ctx context.Context, namespace, pod, container string, previous bool, most int64) ([]byte, error) {
	const line = 200 // bytes, as short as lines are: limitBytes would cut the end off
	request := a.client.Get().AbsPath(Path(namespace, "pods", pod)+"/log").Param("container", container).
		Param("tailLines", strconv.FormatInt(most/line, 10)).Param("timestamps", "true")
	if previous {
		request.Param("previous", "true")
	}
	text, err := request.Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	return tail(text, int(most))
}

// tail reads to the end, and returns the last bytes, from the begin of a line.
func tail(r io.Reader, most int) ([]byte, error) {
	var end []byte
	cut, chunk := false, make([]byte, 64<<10)
	keep := func() {
		end, cut = append([]byte(nil), end[len(end)-most:]...), true
	}
	for {
		n, err := r.Read(chunk)
		if end = append(end, chunk[:n]...); len(end) > 2*most {
			keep()
		}
		if err == nil {
			continue
		}
		if len(end) > most {
			keep()
		}
		if line := bytes.IndexByte(end, '\n'); cut && line >= 0 {
			end = end[line+1:]
		}
		if err == io.EOF {
			err = nil
		}
		return end, err
	}
}

// Path is that of objects of the core API, or of one of them.
func Path(namespace, resource, name string) string {
	path := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/" + resource
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// ConfigMap returns one.
func (a *API) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return get[corev1.ConfigMap](ctx, a, Path(namespace, "configmaps", name))
}

// Secret returns one.
func (a *API) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get[corev1.Secret](ctx, a, Path(namespace, "secrets", name))
}

func get[T any](ctx context.Context, a *API, path string) (*T, error) {
	var object T
	if err := a.do(ctx, "GET", path, nil, nil, &object); err != nil {
		return nil, err
	}
	return &object, nil
}

// CreateSecret creates one that is not there yet.
func (a *API) CreateSecret(ctx context.Context, s *corev1.Secret) error {
	s.APIVersion, s.Kind = "v1", "Secret"
	return a.do(ctx, "POST", Path(s.Namespace, "secrets", ""), nil, s, &corev1.Secret{})
}

// UpdateSecret replaces one, if it still is of the version that was read.
func (a *API) UpdateSecret(ctx context.Context, s *corev1.Secret) error {
	s.APIVersion, s.Kind = "v1", "Secret"
	return a.do(ctx, "PUT", Path(s.Namespace, "secrets", s.Name), nil, s, &corev1.Secret{})
}

// CreateConfigMap creates one that is not there yet.
func (a *API) CreateConfigMap(ctx context.Context, m *corev1.ConfigMap) error {
	m.APIVersion, m.Kind = "v1", "ConfigMap"
	return a.do(ctx, "POST", Path(m.Namespace, "configmaps", ""), nil, m, &corev1.ConfigMap{})
}

// UpdateConfigMap replaces one, if it still is of the version that was read.
func (a *API) UpdateConfigMap(ctx context.Context, m *corev1.ConfigMap) error {
	m.APIVersion, m.Kind = "v1", "ConfigMap"
	return a.do(ctx, "PUT", Path(m.Namespace, "configmaps", m.Name), nil, m, &corev1.ConfigMap{})
}

// Create creates an object that is not there yet, by the path of its kind.
func (a *API) Create(ctx context.Context, path string, object any) error {
	return a.do(ctx, "POST", path, nil, object, &json.RawMessage{})
}

// Delete has an object be deleted, by its path.
func (a *API) Delete(ctx context.Context, path string) error {
	return a.do(ctx, "DELETE", path, nil, nil, &json.RawMessage{})
}

// Resource names a kind of object, in a namespace or, if that is empty, of the cluster.
type Resource struct{ Namespace, Group, Name string }

// MayCreate reports whether the caller may create such objects.
func (a *API) MayCreate(ctx context.Context, r Resource) (bool, error) {
	right := authorizationv1.ResourceAttributes{Verb: "create", Namespace: r.Namespace, Group: r.Group, Resource: r.Name}
	review := authorizationv1.SelfSubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
		Spec:     authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right},
	}
	err := a.do(ctx, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", nil, review, &review)
	return review.Status.Allowed, err
}

// Version is the API server's, as v1.37.2.
func (a *API) Version(ctx context.Context) (string, error) {
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	err := a.do(ctx, "GET", "/version", nil, nil, &version)
	return version.GitVersion, err
}

// Pages reads a list by its path, some hundred objects at a time, as they stand.
func (a *API) Pages(ctx context.Context, path string, page func(text []byte)) error {
	for query := (url.Values{"limit": {"500"}}); ; {
		var text json.RawMessage
		if err := a.do(ctx, "GET", path, query, nil, &text); err != nil {
			return err
		}
		var list struct{ Metadata metav1.ListMeta }
		if err := json.Unmarshal(text, &list); err != nil {
			return fmt.Errorf("the answer to GET %s: %v", path, err)
		}
		if page(text); list.Metadata.Continue == "" {
			return nil
		}
		query.Set("continue", list.Metadata.Continue)
	}
}

// Object reads any object, by its path, into out.
func (a *API) Object(ctx context.Context, path string, out any) error {
	return a.do(ctx, "GET", path, nil, nil, out)
}
