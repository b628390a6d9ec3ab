// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/join"
)

// JoinSecret is the Secret of that namespace/name, for join tokens.
func JoinSecret(api *rest.Config, name string) (join.Object, error) {
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", api.Host, err)
	}
	return &joinSecret{newObject(client, secrets, name)}, nil
}

type joinSecret struct{ object }

func (s *joinSecret) String() string { return s.object.String() }

// Read is part of join.Object.
func (s *joinSecret) Read(ctx context.Context) (map[string][]byte, string, error) {
	u, err := s.get(ctx, s.clients[0])
	if err != nil {
		return nil, "", noAnswer(err)
	}
	if u == nil {
		return nil, "", nil
	}
	data, err := dataOf(u)
	return data, u.GetResourceVersion(), err
}

// Replace is part of join.Object. What else is in the Secret stays.
func (s *joinSecret) Replace(ctx context.Context, data map[string][]byte, version string) error {
	u, err := s.get(ctx, s.clients[0])
	switch {
	case err != nil:
		return noAnswer(err)
	case (u == nil) != (version == ""), u != nil && u.GetResourceVersion() != version:
		return fmt.Errorf("%v: %w", s, join.ErrChanged)
	case u == nil:
		u = s.blank(0)
	}
	text := map[string]any{}
	for name, value := range data {
		text[name] = base64.StdEncoding.EncodeToString(value)
	}
	u.Object["data"] = text
	err = s.put(ctx, s.clients[0], u, version != "")
	if errors.Is(err, ca.ErrChanged) {
		return fmt.Errorf("%v: %w", s, join.ErrChanged)
	}
	return err
}
