// SPDX-License-Identifier: Apache-2.0

// Package enroll is the contract between the CNI plugin and the node's ztunnel:
// what the plugin asks, how it is carried, and the snapshot by which the
// plugin decides when ztunnel does not answer.
//
// It is HTTP with JSON bodies over a unix socket in a directory that only root
// enters; each end gives up after Budget. A field that the other end does not
// know is refused by name, so what v1 carries is fixed: a new field is a /v2
// beside /v1, because plugin and ztunnel are never upgraded in one instant.
package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	// Budget is what one request may take, from dial to reply.
	Budget = 3 * time.Second

	maxBody   = 64 << 10
	maxGCBody = 4 << 20 // names all sandboxes of a node: ztunnel records up to 8,192
	maxIPs    = 64
)

// Request is one pod sandbox, as the container runtime told the plugin.
// It claims; it proves nothing. Identity is the registry's to say, by UID.
type Request struct {
	Network       string `json:"network"`     // name of the CNI network
	ContainerID   string `json:"containerID"` // the pod sandbox
	IfName        string `json:"ifName"`
	Netns         string `json:"netns,omitempty"` // path; may be empty in a DEL
	PodNamespace  string `json:"podNamespace,omitempty"`
	PodName       string `json:"podName,omitempty"`
	PodUID        string `json:"podUID,omitempty"` // empty with runtimes that do not pass it
	IPs           Addrs  `json:"ips,omitempty"`
	BootID        string `json:"bootID,omitempty"`
	PluginVersion string `json:"pluginVersion,omitempty"`
}

// Addrs are addresses whose decoding errors name the field they stand in.
type Addrs []netip.Addr

// UnmarshalJSON reads a list of strings.
func (a *Addrs) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return errors.New("ips: want a list of addresses")
	}
	*a = make(Addrs, len(texts))
	for i, text := range texts {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("ips[%d]: want an address, got %.80q", i, text)
		}
		(*a)[i] = ip
	}
	return nil
}

// Attachment names one sandbox's interface in one network.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// Verdict is ztunnel's answer to an ADD.
type Verdict string

// The verdicts. What ztunnel cannot say is an error, which blocks too.
const (
	Ignore   Verdict = "ignore"   // not in the mesh: the pod may start
	Enrolled Verdict = "enrolled" // in the mesh, verified in the kernel
	Block    Verdict = "block"    // in the mesh and not enrolled: it must not start
)

// Reply answers an ADD.
type Reply struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"` // required with Block
}

// Handler is ztunnel's side. Every call is idempotent, as runtimes repeat them,
// and its context ends with Budget.
type Handler interface {
	// Add enrolls the sandbox if its pod is in the mesh.
	Add(context.Context, Request) (Reply, error)
	// Del forgets the sandbox; one that is unknown is forgotten already.
	Del(context.Context, Request) error
	// Check returns nil if the sandbox is as Add left it, asking the kernel.
	Check(context.Context, Request) error
	// GC forgets every sandbox of the network whose attachment is not listed.
	GC(ctx context.Context, network string, valid []Attachment) error
}

// Kubernetes names end up in error texts and logs: nothing but DNS names there.
var (
	containerID  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,255}$`)
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	uid          = regexp.MustCompile(`^[a-zA-Z0-9-]{1,64}$`)
)

// Validate returns everything that is wrong with r as the verb "add", "del" or
// "check" sends it, each error opening with the field's name on the wire.
func (r Request) Validate(verb string) error {
	var errs []error
	refuse := func(bad bool, field, want string, got any) {
		if bad {
			errs = append(errs, fmt.Errorf("%s: want %s, got %.80q", field, want, fmt.Sprint(got)))
		}
	}
	refuse(!containerID.MatchString(r.Network), "network", "a network name", r.Network)
	refuse(!containerID.MatchString(r.ContainerID), "containerID", "a container id", r.ContainerID)
	refuse(!ifName(r.IfName), "ifName", "an interface name", r.IfName)
	refuse(!netnsPath(r.Netns) && (verb != "del" || r.Netns != ""), "netns", "an absolute path", r.Netns)
	if verb == "add" || r.PodNamespace+r.PodName != "" {
		refuse(!dnsLabel.MatchString(r.PodNamespace), "podNamespace", "a namespace name", r.PodNamespace)
		refuse(!dnsSubdomain.MatchString(r.PodName), "podName", "a pod name", r.PodName)
	}
	refuse(r.PodUID != "" && !uid.MatchString(r.PodUID), "podUID", "a pod UID", r.PodUID)
	refuse(r.BootID != "" && !uid.MatchString(r.BootID), "bootID", "a boot id", r.BootID)
	refuse(len(r.PluginVersion) > 128, "pluginVersion", "at most 128 bytes", r.PluginVersion)
	refuse(len(r.IPs) > maxIPs, "ips", fmt.Sprintf("at most %d addresses", maxIPs), len(r.IPs))
	for i, ip := range r.IPs {
		usable := ip.IsValid() && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.Is4In6()
		refuse(!usable, fmt.Sprintf("ips[%d]", i), "a pod's address", ip)
	}
	return errors.Join(errs...)
}

// ifName follows the kernel's dev_valid_name.
func ifName(s string) bool {
	return s != "" && len(s) < 16 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}

func netnsPath(s string) bool {
	return filepath.IsAbs(s) && filepath.Clean(s) == s && len(s) < 4096 && !strings.ContainsRune(s, 0)
}

func (r Reply) validate() error {
	switch r.Verdict {
	case Ignore, Enrolled:
		return nil
	case Block:
		if r.Reason == "" {
			return errors.New("reason: required with verdict block")
		}
		return nil
	}
	return fmt.Errorf("verdict: want ignore, enrolled or block, got %.80q", string(r.Verdict))
}
