// Acceptance of Cistern with godo, DigitalOcean's Go library: what doctl does not reach. Paging link by link, tags and
// slugs of images, transfers, a failing import to its tombstone, keys by fingerprint, project patches and puts, a token
// that is revoked as `doctl registry logout` does it, rate limits, request ids.
//
// Reads CISTERN_URL, CISTERN_TOKEN, CISTERN_IMAGE_URL (a small disk that the server may fetch), CISTERN_BAD_IMAGE_URL
// (no disk) and, for TLS, CISTERN_CA (the PEM file of the server's certificate authority). One line a check, then
// `N passed, N failed`; the exit code is 1 on any failure and 2 when it could not start.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/digitalocean/godo"
)

type suite struct {
	checks
	ctx      context.Context
	client   *godo.Client
	run      string // makes the names of this run differ from another's
	imageURL string
	badURL   string
}

func main() {
	s, err := newSuite()
	if err != nil {
		fmt.Fprintln(os.Stderr, "godo-suite:", err)
		os.Exit(2)
	}
	s.account()
	s.oauth()
	s.keys()
	s.paging()
	s.projects()
	s.images()
	s.failingImage()
	s.refusals()
	fmt.Printf("%d passed, %d failed\n", s.passed, s.failed)
	if s.failed > 0 {
		os.Exit(1)
	}
}

func newSuite() (*suite, error) {
	values := map[string]string{}
	for _, name := range []string{"CISTERN_URL", "CISTERN_TOKEN", "CISTERN_IMAGE_URL", "CISTERN_BAD_IMAGE_URL"} {
		if values[name] = os.Getenv(name); values[name] == "" {
			return nil, fmt.Errorf("%s is not set", name)
		}
	}
	client, err := newClient(values["CISTERN_URL"], values["CISTERN_TOKEN"])
	if err != nil {
		return nil, err
	}
	return &suite{
		ctx: context.Background(), client: client, run: fmt.Sprintf("%d", time.Now().UnixNano()%1e9),
		imageURL: values["CISTERN_IMAGE_URL"], badURL: values["CISTERN_BAD_IMAGE_URL"],
	}, nil
}

// bearer sends the token as godo's own NewFromToken does, over a transport that trusts CISTERN_CA.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(request)
}

func newClient(url, token string) (*godo.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if path := os.Getenv("CISTERN_CA"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("`%s` holds no certificate", path)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	http := &http.Client{Transport: bearer{token, transport}, Timeout: 30 * time.Second}
	return godo.New(http, godo.SetBaseURL(url))
}
