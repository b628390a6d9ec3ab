// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// Roots is the Place of the roots that nodes find on Kubernetes.
type Roots struct {
	API             *kubeapi.API
	Namespace, Name string // of a ConfigMap
}

func (r Roots) String() string { return "ConfigMap " + r.Namespace + "/" + r.Name }

// Read is part of Place.
func (r Roots) Read(ctx context.Context) (ca.Files, error) {
	found, err := r.API.ConfigMap(ctx, r.Namespace, r.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := ca.Files{}
	for name, text := range found.Data {
		files[name] = []byte(text)
	}
	return files, nil
}

// Secret is a Keep on Kubernetes. Traces are the places in which roots of a CA that is
// gone would be found.
type Secret struct {
	API             *kubeapi.API
	Namespace, Name string
	Traces          []Place
}

func (s Secret) String() string { return "Secret " + s.Namespace + "/" + s.Name }

func (s Secret) get(ctx context.Context) (*corev1.Secret, error) {
	found, err := s.API.Secret(ctx, s.Namespace, s.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return found, err
}

// Read is part of Place.
func (s Secret) Read(ctx context.Context) (ca.Files, error) {
	found, err := s.get(ctx)
	if err != nil || found == nil {
		return nil, err
	}
	files := ca.Files{}
	maps.Copy(files, found.Data)
	return files, nil
}

// Create is part of Keep. Roots that nodes find already must be those of files.
func (s Secret) Create(ctx context.Context, files ca.Files) error {
	ours := Parse(files, "")
	for _, place := range s.Traces {
		theirs, err := Certificates(ctx, place)
		if err != nil {
			return err
		}
		if len(theirs) > 0 && !share(ours, theirs) {
			return fmt.Errorf("%s holds the root of another CA, which nodes trust (%s)", place, theirs[0].Cert.Subject)
		}
	}
	err := s.API.CreateSecret(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: map[string]string{"app.kubernetes.io/managed-by": "culvert-identity"}},
		Type:       corev1.SecretTypeOpaque, Data: files,
	})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%s exists: nothing is written over it", s)
	}
	return err
}

func share(ours, theirs []Certificate) bool {
	for _, a := range ours {
		for _, b := range theirs {
			if ca.SameAuthority(a.Cert, b.Cert) { // the one may be the other, renewed
				return true
			}
		}
	}
	return false
}

// Replace is part of Keep. All names change at once.
func (s Secret) Replace(ctx context.Context, read, next ca.Files) error {
	found, err := s.get(ctx)
	if err != nil {
		return err
	}
	if found == nil || !maps.EqualFunc(found.Data, map[string][]byte(read), bytes.Equal) {
		return fmt.Errorf("%s was changed by another hand meanwhile", s)
	}
	maps.Copy(found.Data, next)
	return s.API.UpdateSecret(ctx, found) // with the version that was read
}
