// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Texts are those of a ConfigMap, each of which one replica puts. It is a ledger.Anchorage.
type Texts struct{ in object }

// NewTexts returns those of the ConfigMap namespace/name, which is created when it is needed.
func NewTexts(api *rest.Config, name string) (*Texts, error) {
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", api.Host, err)
	}
	return &Texts{newObject(client, configMaps, name)}, nil
}

// All returns all texts by name; none if there is no ConfigMap.
func (t *Texts) All(ctx context.Context) (map[string][]byte, error) {
	u, err := t.in.get(ctx, t.in.clients[0])
	if err != nil {
		return nil, fmt.Errorf("%v: %w", &t.in, noAnswer(err))
	}
	if u == nil {
		return nil, nil
	}
	data, _, err := unstructured.NestedStringMap(u.Object, "data")
	if err != nil {
		return nil, fmt.Errorf("%v: %w", &t.in, err)
	}
	all := make(map[string][]byte, len(data))
	for name, text := range data {
		all[name] = []byte(text)
	}
	return all, nil
}

// Put replaces texts, and takes away those that are nil. Others stay as they are, whoever
// changes them meanwhile.
func (t *Texts) Put(ctx context.Context, texts map[string][]byte) error {
	changes, made := map[string]any{}, map[string]any{}
	for name, text := range texts {
		changes[name] = nil // null takes it away
		if text != nil {
			changes[name], made[name] = string(text), string(text)
		}
	}
	body, err := json.Marshal(map[string]any{"data": changes})
	if err != nil {
		return err
	}
	_, err = t.in.clients[0].Patch(ctx, t.in.name, types.MergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		u := t.in.blank(0)
		u.Object["data"] = made
		_, err = t.in.clients[0].Create(ctx, u, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("%v: %w", &t.in, noAnswer(err))
	}
	return nil
}
