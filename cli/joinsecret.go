// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/join"
)

// tokensFlag is the directory that culvert-identity has as -join-tokens.
func tokensFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "join-tokens", "", "`directory` that culvert-identity has as -join-tokens (default on Kubernetes the Secret that it has as -join-secret)")
}

// tokens is where join tokens are: in a directory, or in the Secret of a cluster.
func (c *command) tokens(ctx context.Context, dir string) (join.Store, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	switch kubernetes := c.from.given(ofKubernetes); {
	case dir != "" && kubernetes != "":
		return nil, fmt.Errorf("%s is for a mesh on Kubernetes, --join-tokens for one without: give one of both", kubernetes)
	case dir != "":
		d := join.Directory(dir)
		if err := d.Check(); err != nil {
			return nil, fmt.Errorf("--join-tokens: %w", err)
		}
		return d, nil
	case c.from.machine():
		return nil, errors.New("--join-tokens is required without Kubernetes: which directory does culvert-identity have as -join-tokens?")
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return nil, hint(err, "on a machine without Kubernetes give the directory of the tokens, by --join-tokens")
	}
	name := c.from.argument(ctx, cluster, "-join-secret", "")
	if name == "" {
		name = joinName
		fmt.Fprintf(c.Stderr, "culvert: no replica of the CA says that it reads join tokens in a Secret: is identity.join.enabled set? Taking %s/%s\n", c.from.namespace, name)
	}
	return join.In(&joinSecret{cluster.API, c.from.namespace, name}), nil
}

// joinSecret is a Secret of join tokens.
type joinSecret struct {
	api             *kubeapi.API
	namespace, name string
}

func (s *joinSecret) String() string { return "Secret " + s.namespace + "/" + s.name }

func (s *joinSecret) get(ctx context.Context) (*corev1.Secret, error) {
	found, err := s.api.Secret(ctx, s.namespace, s.name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", s, err)
	}
	return found, nil
}

// Read is part of join.Object.
func (s *joinSecret) Read(ctx context.Context) (map[string][]byte, string, error) {
	found, err := s.get(ctx)
	if err != nil || found == nil {
		return nil, "", err
	}
	return found.Data, found.ResourceVersion, nil
}

// Replace is part of join.Object. What else is in the Secret stays.
func (s *joinSecret) Replace(ctx context.Context, data map[string][]byte, version string) error {
	found, err := s.get(ctx)
	if err != nil {
		return err
	}
	if found == nil && version != "" || found != nil && found.ResourceVersion != version {
		return fmt.Errorf("%v: %w", s, join.ErrChanged)
	}
	if found == nil {
		err = s.api.CreateSecret(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.name, Labels: map[string]string{"app.kubernetes.io/managed-by": "culvert"}},
			Type:       corev1.SecretTypeOpaque, Data: data,
		})
	} else {
		found.Data = data
		err = s.api.UpdateSecret(ctx, found) // with the version that was read
	}
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && found != nil:
		return fmt.Errorf("%v: %w", s, join.ErrChanged)
	}
	return fmt.Errorf("write %v: %w", s, err)
}
