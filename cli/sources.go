// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// sources says where the mesh's programs and its CA are.
type sources struct {
	kubeconfig string
	context    string
	namespace  string
	caSecret   string
	caDir      string
	ztunnels   []string
	ca         string
	caAdmin    string

	flags *pflag.FlagSet
}

var (
	ofKubernetes = []string{"kubeconfig", "context", "namespace", "ca-secret"}
	ofMachines   = []string{"ca-dir", "ztunnel", "ca", "ca-admin"}
)

func (s *sources) define(flags *pflag.FlagSet) {
	s.flags = flags
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "`file` that leads to the Kubernetes API server (default as kubectl: $KUBECONFIG, ~/.kube/config, the pod's own)")
	flags.StringVar(&s.context, "context", "", "`name` of the kubeconfig's context (default its current one)")
	flags.StringVarP(&s.namespace, "namespace", "n", "culvert-system", "`namespace` of the mesh's programs")
	flags.StringVar(&s.caSecret, "ca-secret", "", "`name` of the Secret that the CA is in (default as the pods of culvert-identity say, else culvert-ca)")
	flags.StringVar(&s.caDir, "ca-dir", "", "without Kubernetes: `directory` of the CA's certificates and keys")
	flags.StringSliceVar(&s.ztunnels, "ztunnel", nil, "without Kubernetes: comma-separated `addresses` of ztunnels' /config_dump, as 127.0.0.1:15000")
	flags.StringVar(&s.ca, "ca", "", "without Kubernetes: `address` at which the CA takes requests of nodes, as 127.0.0.1:15012")
	flags.StringVar(&s.caAdmin, "ca-admin", "", "without Kubernetes: `address` of the CA's /config_dump, as 127.0.0.1:15013")
}

// machine reports whether flags say where things are without a Kubernetes.
func (s *sources) machine() bool { return s.given(ofMachines) != "" }

// given is the first of the flags that is set.
func (s *sources) given(names []string) string {
	for _, name := range names {
		if s.flags.Changed(name) {
			return "--" + name
		}
	}
	return ""
}

// check refuses flags that contradict each other or have no value.
func (s *sources) check() error {
	if one, other := s.given(ofKubernetes), s.given(ofMachines); one != "" && other != "" {
		return fmt.Errorf("%s is for a mesh on Kubernetes, %s for one without: give one of both", one, other)
	}
	var problems []error
	for _, name := range slices.Concat(ofKubernetes, ofMachines) {
		f := s.flags.Lookup(name)
		if f.Changed && strings.Trim(f.Value.String(), "[] ") == "" {
			problems = append(problems, fmt.Errorf("--%s is empty: leave the flag out for its default", name))
		}
	}
	for flag, addresses := range map[string][]string{"ztunnel": s.ztunnels, "ca": {s.ca}, "ca-admin": {s.caAdmin}} {
		for _, address := range addresses {
			if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
				problems = append(problems, fmt.Errorf("--%s %q: want host:port", flag, address))
			}
		}
	}
	return errors.Join(problems...)
}

// fleet is where the mesh's programs are found.
func (s *sources) fleet() (fleet.Source, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.machine() {
		return fleet.Addresses{Ztunnel: s.ztunnels, CA: s.ca, CAAdmin: s.caAdmin}, nil
	}
	return s.cluster()
}

func (s *sources) cluster() (*fleet.Cluster, error) {
	api, err := kubeapi.Open(s.kubeconfig, s.context)
	if err != nil {
		return nil, hint(err, "on a machine without Kubernetes say where things are, by --ca-dir, --ztunnel, --ca")
	}
	return &fleet.Cluster{API: api, Namespace: s.namespace}, nil
}
