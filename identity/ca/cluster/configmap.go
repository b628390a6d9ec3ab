// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// FollowConfigMap calls take with a key of the ConfigMap namespace/name whenever that may
// have changed, and with its resourceVersion, until ctx ends. An error means that nobody knows: also if there is none
// now, and the ConfigMap memory, if one is named, says that there was.
func FollowConfigMap(ctx context.Context, api *rest.Config, name, key, memory string, take func(text, version string, there bool, err error)) error {
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("client of %s: %v", api.Host, err)
	}
	o := newObject(client, configMaps, name)
	had := func(context.Context) (bool, error) { return false, nil }
	remember := func(context.Context) error { return nil }
	if memory != "" {
		m := newObject(client, configMaps, memory)
		had = func(ctx context.Context) (bool, error) { return m.had(ctx, name) }
		remember = func(ctx context.Context) error { return m.remember(ctx, name) }
	}
	never := func() <-chan struct{} { return nil }
	o.follow(ctx, never, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, lookFor)
		defer cancel()
		u, err := o.get(ctx, o.clients[0])
		if err != nil {
			take("", "", false, err)
			return err
		}
		if u != nil {
			text, there, err := unstructured.NestedString(u.Object, "data", key)
			take(text, u.GetResourceVersion(), there, err)
			if err == nil && there {
				err = remember(ctx)
			}
			return err
		}
		was, err := had(ctx)
		if was {
			err = fmt.Errorf("it is gone, and %s says by %s that it was there: write it again", memory, ca.HadConfigMap)
		}
		take("", "", false, err)
		return err
	})
	return nil
}

// had reports whether the object remembers a ConfigMap of that name.
func (o *object) had(ctx context.Context, name string) (bool, error) {
	u, err := o.get(ctx, o.clients[0])
	if err != nil || u == nil {
		return false, err
	}
	return u.GetAnnotations()[ca.HadConfigMap] == name, nil
}

// remember has the object, which must be there, remember that a ConfigMap of that name is.
func (o *object) remember(ctx context.Context, name string) error {
	u, err := o.get(ctx, o.clients[0])
	switch {
	case err != nil:
		return err
	case u == nil:
		return fmt.Errorf("%v is not there yet", o)
	case u.GetAnnotations()[ca.HadConfigMap] == name:
		return nil
	}
	annotate(u, ca.HadConfigMap, name)
	return o.put(ctx, o.clients[0], u, true)
}
