package main

import (
	"crypto/ed25519"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/digitalocean/godo"
)

func (s *suite) account() {
	account, response, err := s.client.Account.Get(s.ctx)
	if !s.runs("account", err) {
		return
	}
	s.is("account-status", "active", account.Status)
	s.is("account-has-team", true, account.Team != nil && account.Team.UUID != "" && account.Team.Name != "")
	s.is("account-limits", true, account.DropletLimit > 0 && account.VolumeLimit > 0)
	s.like("answer-has-request-id", requestID.String(), response.Header.Get("x-request-id"))
	rate := response.Rate
	s.is("rate-limit", true, rate.Limit > 0 && rate.Remaining >= 0 && rate.Remaining < rate.Limit)
	s.is("rate-reset-within-two-hours", true,
		rate.Reset.After(time.Now().Add(-time.Minute)) && rate.Reset.Before(time.Now().Add(2*time.Hour)))
	_, second, err := s.client.Account.Get(s.ctx)
	if s.runs("account-again", err) {
		s.is("rate-counts-down", true, second.Rate.Remaining < rate.Remaining)
		s.is("request-ids-differ", true, second.Header.Get("x-request-id") != response.Header.Get("x-request-id"))
	}
}

// oauth makes a narrow token, asks what it may, and revokes it as doctl's `registry logout` and Terraform do.
func (s *suite) oauth() {
	var made struct {
		Token struct {
			Text string `json:"access_token"`
		} `json:"token"`
	}
	request, err := s.client.NewRequest(s.ctx, http.MethodPost, "v2/tokens", map[string]any{
		"name": "godo-" + s.run, "scopes": []string{"account:read", "tag:read"}, "expiry_seconds": 600,
	})
	if err == nil {
		_, err = s.client.Do(s.ctx, request, &made)
	}
	if !s.runs("token-create", err) {
		return
	}
	narrow, err := newClient(os.Getenv("CISTERN_URL"), made.Token.Text)
	if !s.runs("token-client", err) {
		return
	}
	_, _, err = narrow.Tags.List(s.ctx, nil)
	s.runs("token-in-its-scope", err)
	_, _, err = narrow.Images.List(s.ctx, nil)
	s.refused("token-beyond-its-scope", http.StatusForbidden, "do not have permission", err)
	var info struct {
		Scopes  []string `json:"scopes"`
		Expires int      `json:"expires_in_seconds"`
	}
	request, err = narrow.NewRequest(s.ctx, http.MethodGet, "v1/oauth/token/info", nil)
	if err == nil {
		_, err = narrow.Do(s.ctx, request, &info)
	}
	if s.runs("token-info", err) {
		s.is("token-info-scopes", "account:read tag:read", strings.Join(info.Scopes, " "))
		s.is("token-info-expires", true, info.Expires > 0 && info.Expires <= 600)
	}
	form := url.Values{"token": {made.Token.Text}}.Encode()
	request, err = narrow.NewRequest(s.ctx, http.MethodPost, "v1/oauth/revoke", nil)
	if err == nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
		var response *godo.Response
		response, err = narrow.Do(s.ctx, request, io.Discard)
		s.is("token-revoke-200", http.StatusOK, status(response))
	}
	s.runs("token-revoke", err)
	_, _, err = narrow.Account.Get(s.ctx)
	s.refused("token-revoked", http.StatusUnauthorized, "^Unable to authenticate you", err)
}

// newKey makes an ed25519 public key as a line of authorized_keys, and DigitalOcean's MD5 fingerprint of it.
func newKey(comment string) (line, fingerprint string) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	var blob []byte
	for _, part := range [][]byte{[]byte("ssh-ed25519"), public} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(part)))
		blob = append(blob, part...)
	}
	var pairs []string
	for _, b := range md5.Sum(blob) {
		pairs = append(pairs, fmt.Sprintf("%02x", b))
	}
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blob) + " " + comment, strings.Join(pairs, ":")
}

func (s *suite) keys() {
	line, fingerprint := newKey("godo@" + s.run)
	key, response, err := s.client.Keys.Create(s.ctx, &godo.KeyCreateRequest{Name: "godo-" + s.run, PublicKey: line})
	if !s.runs("key-create", err) {
		return
	}
	s.is("key-create-201", http.StatusCreated, status(response))
	s.is("key-fingerprint", fingerprint, key.Fingerprint)
	s.is("key-public-key", line, key.PublicKey)
	same, _, err := s.client.Keys.GetByFingerprint(s.ctx, fingerprint)
	if s.runs("key-by-fingerprint", err) {
		s.is("key-by-fingerprint-id", key.ID, same.ID)
	}
	renamed, _, err := s.client.Keys.UpdateByFingerprint(s.ctx, fingerprint, &godo.KeyUpdateRequest{Name: "renamed-" + s.run})
	if s.runs("key-update-by-fingerprint", err) {
		s.is("key-renamed", "renamed-"+s.run, renamed.Name)
		s.is("key-keeps-fingerprint", fingerprint, renamed.Fingerprint)
	}
	_, _, err = s.client.Keys.Create(s.ctx, &godo.KeyCreateRequest{Name: "other", PublicKey: line})
	s.refused("key-twice", http.StatusUnprocessableEntity, "already", err)
	_, _, err = s.client.Keys.Create(s.ctx, &godo.KeyCreateRequest{Name: "", PublicKey: line})
	s.refused("key-without-name", http.StatusUnprocessableEntity, "(?i)name", err)
	response, err = s.client.Keys.DeleteByFingerprint(s.ctx, fingerprint)
	s.runs("key-delete-by-fingerprint", err)
	s.is("key-delete-204", http.StatusNoContent, status(response))
	_, _, err = s.client.Keys.GetByID(s.ctx, key.ID)
	s.refused("key-gone", notFound, "could not be found", err)
	_, _, err = s.client.Keys.GetByFingerprint(s.ctx, fingerprint)
	s.refused("key-gone-by-fingerprint", notFound, "could not be found", err)
}

// paging makes 45 tags and walks them 20 at a time by the links, forwards.
func (s *suite) paging() {
	const made = 45
	prefix := "godo-page-" + s.run + "-"
	for n := range made {
		if _, _, err := s.client.Tags.Create(s.ctx, &godo.TagCreateRequest{Name: fmt.Sprintf("%s%02d", prefix, n)}); err != nil {
			s.fail("tags-create", "no error", err)
			return
		}
	}
	s.ok("tags-create")
	seen := map[string]int{}
	var total, pages int
	options := &godo.ListOptions{Page: 1, PerPage: 20}
	for {
		tags, response, err := s.client.Tags.List(s.ctx, options)
		if !s.runs(fmt.Sprintf("tags-page-%d", options.Page), err) {
			return
		}
		pages++
		total = response.Meta.Total
		for _, tag := range tags {
			seen[tag.Name]++
		}
		s.pageLinks(options.Page, total, response)
		if response.Links == nil || response.Links.IsLastPage() {
			break
		}
		options.Page++
	}
	s.is("tags-pages", (total+19)/20, pages)
	s.is("tags-each-once", total, len(seen))
	mine := 0
	for name, times := range seen {
		if strings.HasPrefix(name, prefix) && times == 1 {
			mine++
		}
	}
	s.is("tags-all-listed", made, mine)
	last, response, err := s.client.Tags.List(s.ctx, &godo.ListOptions{Page: pages + 5, PerPage: 20})
	s.runs("tags-beyond-the-end", err)
	s.is("tags-beyond-the-end-empty", 0, len(last))
	s.is("tags-beyond-the-end-total", true, response != nil && response.Meta != nil && response.Meta.Total == total)
	for n := range made {
		if _, err := s.client.Tags.Delete(s.ctx, fmt.Sprintf("%s%02d", prefix, n)); err != nil {
			s.fail("tags-delete", "no error", err)
			return
		}
	}
	s.ok("tags-delete")
}

// pageLinks checks what doctl and Terraform read: absolute links with the right page, none where there is no page.
func (s *suite) pageLinks(page, total int, response *godo.Response) {
	last := (total + 19) / 20
	name := fmt.Sprintf("tags-page-%d-links", page)
	pages := &godo.Pages{}
	if response.Links != nil && response.Links.Pages != nil {
		pages = response.Links.Pages
	}
	want := func(present bool, page int) string {
		if !present {
			return ""
		}
		return fmt.Sprintf("%s page=%d per_page=20", strings.TrimRight(os.Getenv("CISTERN_URL"), "/")+"/v2/tags", page)
	}
	for _, link := range []struct{ rel, got, want string }{
		{"first", pages.First, want(page > 1, 1)},
		{"prev", pages.Prev, want(page > 1, page-1)},
		{"next", pages.Next, want(page < last, page+1)},
		{"last", pages.Last, want(page < last, last)},
	} {
		s.is(name+"-"+link.rel, link.want, plainLink(link.got))
	}
}
