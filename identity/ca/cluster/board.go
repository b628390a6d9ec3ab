// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity/lease"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// Rekey is what replicas of a cluster share while a root is re-keyed.
type Rekey struct {
	board object
	pods  dynamic.ResourceInterface
	lease *lease.Lease
}

var _ rekey.Board = (*Rekey)(nil)

// NotAPod is the end of the name of a replica that is no pod of the cluster: whether it still
// is cannot be asked.
const NotAPod = ".process"

// maxReport bounds what one replica says, unpacked.
const maxReport = 16 << 20

// NewRekey returns what is shared by the ConfigMap and the Lease namespace/name. self is the
// name of this replica's pod, in the same namespace.
func NewRekey(api *rest.Config, name, self string) (*Rekey, error) {
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", api.Host, err)
	}
	namespace, plain, ok := strings.Cut(name, "/")
	if !ok {
		return nil, fmt.Errorf("%q: want namespace/name", name)
	}
	return &Rekey{
		board: newObject(client, configMaps, name),
		pods:  client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(namespace),
		lease: lease.New(client, namespace, plain, self),
	}, nil
}

// Lead takes the Lease, or says why this replica must not step now: rekey.ErrFollows if
// another has it.
func (r *Rekey) Lead(ctx context.Context) error {
	err := r.lease.Take(ctx)
	if errors.Is(err, lease.ErrHeld) {
		return fmt.Errorf("%w: %w", rekey.ErrFollows, err)
	}
	return err
}

// Put is part of rekey.Board. Reports are packed: those of 5,000 nodes have a megabyte.
func (r *Rekey) Put(ctx context.Context, name string, text []byte) error {
	var packed any // null takes it away
	if text != nil {
		var out bytes.Buffer
		zip := gzip.NewWriter(&out) // of a Buffer, which takes everything
		_, _ = zip.Write(text)
		_ = zip.Close()
		packed = base64.StdEncoding.EncodeToString(out.Bytes())
	}
	body, err := json.Marshal(map[string]any{"binaryData": map[string]any{name: packed}})
	if err != nil {
		return err
	}
	_, err = r.board.clients[0].Patch(ctx, r.board.name, types.MergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) && text != nil {
		u := r.board.blank(0)
		if err = unstructured.SetNestedField(u.Object, packed, "binaryData", name); err == nil {
			_, err = r.board.clients[0].Create(ctx, u, metav1.CreateOptions{})
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%v: %w", &r.board, noAnswer(err))
	}
	return nil
}

// All is part of rekey.Board. What a replica said whose pod is gone is left out.
func (r *Rekey) All(ctx context.Context) (map[string][]byte, error) {
	u, err := r.board.get(ctx, r.board.clients[0])
	if err != nil {
		return nil, fmt.Errorf("%v: %w", &r.board, noAnswer(err))
	}
	if u == nil {
		return nil, nil
	}
	packed, _, err := unstructured.NestedStringMap(u.Object, "binaryData")
	if err != nil {
		return nil, fmt.Errorf("%v: %w", &r.board, err)
	}
	all := make(map[string][]byte, len(packed))
	for name, text := range packed {
		gone, err := r.gone(ctx, name)
		if err != nil {
			return nil, err
		}
		if !gone {
			all[name] = unpacked(text) // what is not understood is no fresh report
		}
	}
	return all, nil
}

// gone reports whether a replica's pod is.
func (r *Rekey) gone(ctx context.Context, name string) (bool, error) {
	if strings.HasSuffix(name, NotAPod) {
		return false, nil
	}
	_, err := r.pods.Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("pod %s: %w", name, noAnswer(err))
	}
	return err != nil, nil
}

func unpacked(text string) []byte {
	zip, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	if err != nil {
		return nil
	}
	all, err := io.ReadAll(io.LimitReader(zip, maxReport))
	if err != nil {
		return nil
	}
	return all
}
