// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/deny"
)

// denyPlace is where the CA's deny set is written. Its String says where.
type denyPlace interface {
	// read returns the set as it is; there: false says that none is.
	read(ctx context.Context) (text []byte, there bool, err error)
	// replace writes the next set if the one that read returned is still there, and wraps
	// errDenyChanged if it is not.
	replace(ctx context.Context, next []byte) error
	// never says whether it is sure that there never was a set: if not, what it denied
	// would be forgotten by a new one.
	never(ctx context.Context) error
	// written is a line that says how the set comes to the CA.
	written() string
	// byHand is what writes the set without this program, as lines for a shell.
	byHand(next []byte) string
	fmt.Stringer
}

var errDenyChanged = errors.New("it was changed by another hand meanwhile")

// denySet is the place that the flags name.
func (c *command) denySet(ctx context.Context, file string) (denyPlace, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	if file != "" {
		f := &denyFile{path: file}
		if c.from.given(ofKubernetes) != "" {
			f.namespace = c.from.namespace
		}
		return f, nil
	}
	if c.from.machine() {
		return nil, errors.New("--deny-file is required without Kubernetes: which file does culvert-identity have as -deny?")
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return nil, err
	}
	name := c.from.argument(ctx, cluster, "-deny-configmap", denyName)
	return &denyConfigMap{api: cluster.API, namespace: c.from.namespace, name: name}, nil
}

// denyTries is how often a set is written anew that another hand changes at that moment.
const denyTries = 5

// rewrite changes a set, whole, and returns what it was and its text now. A set that is not
// there is made if create says so, or if there never was one; one that is not understood is
// left alone.
func rewrite(ctx context.Context, place denyPlace, d denying, change func([]deny.Entry) []deny.Entry) (before []deny.Entry, next []byte, err error) {
	for range denyTries {
		text, there, err := place.read(ctx)
		if err != nil {
			return nil, nil, err
		}
		before = nil
		if there {
			if before, err = deny.Parse(text); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", place, err)
			}
		} else if err := place.never(ctx); err != nil && !d.create {
			return nil, nil, err
		}
		if next, err = deny.Format(change(before)); err == nil {
			_, err = deny.Parse(next) // its bounds
		}
		if err != nil || d.dryRun || bytes.Equal(next, text) {
			return before, next, err
		}
		if err = place.replace(ctx, next); !errors.Is(err, errDenyChanged) {
			return before, next, err
		}
	}
	return nil, nil, fmt.Errorf("%s: %w, %d times", place, errDenyChanged, denyTries)
}

// denyFile is a set in a file.
type denyFile struct {
	path      string
	namespace string // of the mesh's programs, if the flags name a Kubernetes; empty
	text      []byte // that was read
}

func (f *denyFile) String() string { return f.path }

func (f *denyFile) read(context.Context) ([]byte, bool, error) {
	text, err := custody.ReadFile(f.path)
	f.text = text
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("--deny-file: %w", err)
	}
	return text, true, nil
}

func (f *denyFile) never(context.Context) error {
	return hint(fmt.Errorf("--deny-file: there is no %s", f.path), "give the file that culvert-identity reads by -deny, or --create")
}

func (f *denyFile) replace(_ context.Context, next []byte) error {
	if err := custody.ReplaceFile(f.path, f.text, next); !errors.Is(err, custody.ErrChanged) {
		return err
	}
	return fmt.Errorf("%s: %w", f.path, errDenyChanged)
}

func (f *denyFile) written() string {
	if f.namespace == "" {
		return fmt.Sprintf("written to %s; culvert-identity must read it by -deny %s", f.path, f.path)
	}
	return fmt.Sprintf("written to %s; to give it to the CA: %s", f.path, applied(f.namespace, denyName, f.path))
}

func (f *denyFile) byHand(next []byte) string { return "to " + f.path + ":\n" + string(next) }

func applied(namespace, name, file string) string {
	return fmt.Sprintf("kubectl -n %s create configmap %s --from-file=%s=%s --dry-run=client -o yaml | kubectl apply -f -", namespace, name, deny.Key, file)
}

// denyConfigMap is a set on Kubernetes.
type denyConfigMap struct {
	api             *kubeapi.API
	namespace, name string
	found           *corev1.ConfigMap // that was read; nil: there was none
}

func (m *denyConfigMap) String() string { return "ConfigMap " + m.namespace + "/" + m.name }

func (m *denyConfigMap) read(ctx context.Context) ([]byte, bool, error) {
	var err error
	m.found, err = m.api.ConfigMap(ctx, m.namespace, m.name)
	if apierrors.IsNotFound(err) {
		m.found = nil
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", m, err)
	}
	text, there := m.found.Data[deny.Key]
	return []byte(text), there, nil
}

// never is sure where the CA publishes its roots and remembers no set beside them.
func (m *denyConfigMap) never(ctx context.Context) error {
	roots, err := m.api.ConfigMap(ctx, m.namespace, rootsName)
	switch {
	case apierrors.IsNotFound(err):
		return hint(fmt.Errorf("there is no %s, and no CA publishes its root in namespace %s", m, m.namespace), "give the namespace of the mesh's programs by --namespace, or --create")
	case err != nil:
		return fmt.Errorf("%s is not there; whether it ever was: %w", m, err)
	case roots.Annotations[ca.HadConfigMap] == m.namespace+"/"+m.name:
		return hint(fmt.Errorf("%s is gone, and the CA remembers it: replicas deny what it said until they stop, and a new one replaces that", m),
			"put it back as it was (culvert's last output, or a backup), or make a new one by --create")
	}
	return nil
}

func (m *denyConfigMap) replace(ctx context.Context, next []byte) error {
	write := m.api.UpdateConfigMap // with the version that was read
	object := m.found
	if object == nil {
		write = m.api.CreateConfigMap
		object = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.namespace, Name: m.name}}
	} else if object.ResourceVersion == "" {
		return fmt.Errorf("%s was read without a version", m)
	}
	data := maps.Clone(object.Data)
	if data == nil {
		data = map[string]string{}
	}
	data[deny.Key] = string(next)
	object.Data = data
	err := write(ctx, object)
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && m.found != nil:
		return fmt.Errorf("%s: %w", m, errDenyChanged)
	}
	return fmt.Errorf("write %s: %w", m, err)
}

func (m *denyConfigMap) written() string {
	return fmt.Sprintf("written to %s; culvert-identity reads it within seconds", m)
}

func (m *denyConfigMap) byHand(next []byte) string {
	return applied(m.namespace, m.name, "/dev/stdin") + " <<'DENY'\n" + string(next) + "DENY\n"
}
