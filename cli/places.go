// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

// Names of the CA's objects, as deploy/chart has them.
const (
	secretName = "culvert-ca"
	rootsName  = "culvert-root"
	denyName   = "culvert-deny"
	joinName   = "culvert-join"
)

// public are the places of roots that may be read without a right to keys.
func (s *sources) public() ([]custody.Place, error) {
	if s.machine() {
		if s.caDir == "" {
			return nil, nil
		}
		return []custody.Place{custody.Directory(s.caDir)}, nil
	}
	cluster, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return []custody.Place{custody.Roots{API: cluster.API, Namespace: s.namespace, Name: rootsName}}, nil
}

// keep is where the CA is, with its keys, and the places of traces of it.
func (s *sources) keep(ctx context.Context) (custody.Keep, []custody.Place, error) {
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	if s.machine() {
		if s.caDir == "" {
			return nil, nil, errors.New("--ca-dir is required: in which directory is the CA?")
		}
		return custody.Directory(s.caDir), nil, nil
	}
	cluster, err := s.cluster()
	if err != nil {
		return nil, nil, err
	}
	traces := []custody.Place{custody.Roots{API: cluster.API, Namespace: s.namespace, Name: rootsName}}
	return custody.Secret{API: cluster.API, Namespace: s.namespace, Name: s.secret(ctx, cluster), Traces: traces}, traces, nil
}

// secret names the Secret of the CA: as the flag does, else as the arguments of a replica
// do, else as the chart does for a CA that culvert-identity makes.
func (s *sources) secret(ctx context.Context, cluster *fleet.Cluster) string {
	if s.caSecret != "" {
		return s.caSecret
	}
	return s.argument(ctx, cluster, "-secret", secretName)
}

// argument is the name of an object of the namespace that a replica of the CA has as a flag,
// or, if none has it, the given one.
func (s *sources) argument(ctx context.Context, cluster *fleet.Cluster, flag, otherwise string) string {
	return s.flagOf(ctx, cluster, flag+"="+s.namespace+"/", otherwise)
}

// value is what a replica of the CA has as a flag, or, if none has it, the given one.
func (s *sources) value(ctx context.Context, cluster *fleet.Cluster, flag, otherwise string) string {
	return s.flagOf(ctx, cluster, flag+"=", otherwise)
}

func (s *sources) flagOf(ctx context.Context, cluster *fleet.Cluster, prefix, otherwise string) string {
	pods, _ := cluster.API.Pods(ctx, s.namespace, "app.kubernetes.io/name=culvert-identity") // who may not list them gives the flag
	for _, pod := range pods {
		for _, container := range pod.Spec.Containers {
			for _, arg := range container.Args {
				if name, ok := strings.CutPrefix(arg, prefix); ok {
					return name
				}
			}
		}
	}
	return otherwise
}
