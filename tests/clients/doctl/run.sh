#!/usr/bin/env bash
# Acceptance: every image, account, ssh-key, region, size, tag, project and action command of DigitalOcean's own doctl,
# unmodified, against a running Cistern. Results are checked (fields, paging, error texts), not only exit codes.
#
#   CISTERN_URL, CISTERN_TOKEN   the server and a token that may do everything
#   CISTERN_IMAGE_URL            a small disk image that the server may fetch (raw or qcow2)
#   CISTERN_BAD_IMAGE_URL        something that is no disk
#   CISTERN_CA                   optional: the PEM file of the server's certificate authority
#   CISTERN_DOCTL                optional: the program; default is the one that ../install.sh makes
#
# One line a check: `ok NAME` or `FAIL NAME: expected … got …`; then `N passed, N failed`. Exit code 1 on any failure,
# 2 when it could not start.
set -uo pipefail

: "${CISTERN_URL:?the address of the server}" "${CISTERN_TOKEN:?an API token}"
: "${CISTERN_IMAGE_URL:?the URL of a disk image}" "${CISTERN_BAD_IMAGE_URL:?the URL of a file that is no disk}"
program=${CISTERN_DOCTL:-${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}/bin/doctl}
for need in "$program" jq curl ssh-keygen; do
  command -v "$need" >/dev/null || { echo "doctl/run.sh: \`$need\` is missing; see ../install.sh" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An own home: no context or token of the person who runs this is used.
export HOME=$work XDG_CONFIG_HOME=$work DIGITALOCEAN_API_URL=$CISTERN_URL DIGITALOCEAN_ACCESS_TOKEN=$CISTERN_TOKEN
[[ -z ${CISTERN_CA:-} ]] || export SSL_CERT_FILE=$CISTERN_CA CURL_CA_BUNDLE=$CISTERN_CA
# Names differ from run to run, so that a suite may run twice against one server.
run=$(date +%s | tail -c 6)$$
passed=0 failed=0
out='' code=0

ok() { passed=$((passed + 1)); printf 'ok %s\n' "$1"; }
bad() { # NAME EXPECTED GOT
  failed=$((failed + 1))
  printf 'FAIL %s: expected %s got %s\n' "$1" "$2" "$(printf '%s' "$3" | tr '\n' ' ' | cut -c1-400)"
}
is() { if [[ $3 == "$2" ]]; then ok "$1"; else bad "$1" "\`$2\`" "\`$3\`"; fi; }
like() { if printf '%s' "$3" | grep -qE -- "$2"; then ok "$1"; else bad "$1" "a match of \`$2\`" "\`$3\`"; fi; }

# doctl with everything that it says in $out and its exit code in $code.
doctl() {
  # An empty list of images comes with a notice before its `[]`.
  out=$("$program" --http-retry-max 1 "$@" 2>&1 </dev/null | sed '/^Notice: /d')
  code=$?
}
# The first (or only) object that `-o json` printed, through a jq filter.
field() { printf '%s' "$out" | jq -r "(if type == \"array\" then .[0] else . end) | $1" 2>&1; }
list() { printf '%s' "$out" | jq -r "$1" 2>&1; }
# runs NAME ARGUMENT… : the command succeeds; its output stays in $out.
runs() {
  local name=$1
  shift
  doctl "$@"
  if ((code == 0)); then ok "$name"; else bad "$name" 'exit code 0' "$code: $out"; fi
}
# refused NAME PATTERN ARGUMENT… : exit code 1 and the pattern in the one error line.
refused() {
  local name=$1 pattern=$2
  shift 2
  doctl "$@"
  if ((code == 1)) && printf '%s' "$out" | grep -qE -- "$pattern"; then ok "$name"; else
    bad "$name" "exit code 1 and \`$pattern\`" "$code: $out"
  fi
}
# The server's answer without doctl, for ids that doctl does not print.
api() { curl -sS -m 30 -H "Authorization: Bearer $CISTERN_TOKEN" "$CISTERN_URL$1"; }
# Polls an image until it is no longer being made, for two minutes at most.
image_settled() {
  local deadline=$((SECONDS + 120))
  while ((SECONDS < deadline)); do
    doctl compute image get "$1" -o json
    [[ $(field .status) =~ ^(available|deleted)$ ]] && return
    sleep 0.3
  done
}
seconds_z='^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$'

check_account() {
  runs account-get account get -o json
  like account-email '^[^@ ]+@[^@ ]+$' "$(field .email)"
  like account-uuid '^[0-9a-f-]{32,}$' "$(field .uuid)"
  is account-status active "$(field .status)"
  is account-verified true "$(field .email_verified)"
  like account-droplet-limit '^[1-9][0-9]*$' "$(field .droplet_limit)"
  like account-team '.' "$(field '.team.name // empty')"
  doctl account get --format Email,Status --no-header
  like account-columns '^[^ ]+@[^ ]+ +active$' "$out"
  runs ratelimit account ratelimit -o json
  local limit remaining
  limit=$(field .limit) remaining=$(field .remaining)
  like ratelimit-limit '^[1-9][0-9]*$' "$limit"
  is ratelimit-remaining-below-limit true "$([[ $remaining =~ ^[0-9]+$ ]] && ((remaining < limit)) && echo true)"
  is ratelimit-reset-ahead true "$(field '(.reset | fromdateiso8601) as $r | $r > (now - 60) and $r < (now + 7200)')"
  doctl account ratelimit -o json
  is ratelimit-counts-down true "$(field ".remaining < $remaining")"
}

# `auth init` asks /v1/oauth/token/info about the token before it keeps it.
check_auth_init() {
  runs auth-init auth init --token-validation-server "$CISTERN_URL"
  like auth-init-valid '(✔|OK)' "$out"
  DIGITALOCEAN_ACCESS_TOKEN=dop_v1_0000000000000000000000000000000000000000000000000000000000000000 \
    refused auth-init-wrong-token '401 .*Unable to authenticate you' auth init \
    --token-validation-server "$CISTERN_URL"
}

check_refusals_of_tokens() {
  DIGITALOCEAN_ACCESS_TOKEN=dop_v1_0000000000000000000000000000000000000000000000000000000000000000 \
    refused wrong-token-401 '401 .*Unable to authenticate you' account get
  DIGITALOCEAN_ACCESS_TOKEN=nonsense refused nonsense-token-401 '401 .*Unable to authenticate you' compute image list
  DIGITALOCEAN_ACCESS_TOKEN=nonsense refused error-carries-request-id '\(request "[0-9a-f-]{36}"\)' compute tag list
}

check_places() {
  runs region-list compute region list -o json
  is region-nyc3 'New York 3,true' "$(list '.[] | select(.slug == "nyc3") | "\(.name),\(.available)"')"
  is region-seeds 6 "$(list '[.[].slug | select(IN("nyc1","nyc2","nyc3","sfo3","lon1","tor1"))] | length')"
  is region-has-sizes true "$(list 'any(.[]; .slug == "nyc3" and (.sizes | index("s-1vcpu-1gb")) != null)')"
  doctl compute region list --format Slug,Available --no-header
  like region-columns '^lon1 +true$' "$out"
  runs size-list compute size list -o json
  is size-s-1vcpu-1gb '1024,1,25,6,0.00893' \
    "$(list '.[] | select(.slug == "s-1vcpu-1gb") | "\(.memory),\(.vcpus),\(.disk),\(.price_monthly),\(.price_hourly)"')"
  is size-s-1vcpu-2gb '2048,1,50' "$(list '.[] | select(.slug == "s-1vcpu-2gb") | "\(.memory),\(.vcpus),\(.disk)"')"
  is size-slugs-are-one-each 0 "$(list 'length - (map(.slug) | unique | length)')"
  doctl compute size list --format Slug,Memory,VCPUs,Disk --no-header
  like size-columns '^s-1vcpu-1gb +1024 +1 +25$' "$out"
}

check_ssh_keys() {
  local n fingerprint id
  for n in a b; do ssh-keygen -q -t ed25519 -N '' -C "doctl $run" -f "$work/key-$n"; done
  fingerprint=$(ssh-keygen -l -E md5 -f "$work/key-a.pub" | cut -d' ' -f2 | cut -d: -f2-)
  runs ssh-key-create compute ssh-key create "key-a-$run" --public-key "$(<"$work/key-a.pub")" -o json
  id=$(field .id)
  like ssh-key-id '^[1-9][0-9]*$' "$id"
  is ssh-key-name "key-a-$run" "$(field .name)"
  is ssh-key-fingerprint "$fingerprint" "$(field .fingerprint)"
  is ssh-key-public-key "$(<"$work/key-a.pub")" "$(field .public_key)"
  runs ssh-key-import compute ssh-key import "key-b-$run" --public-key-file "$work/key-b.pub" -o json
  is ssh-key-import-name "key-b-$run" "$(field .name)"
  local id_b
  id_b=$(field .id)
  refused ssh-key-twice-422 '422 .*already' compute ssh-key create again --public-key "$(<"$work/key-a.pub")"
  refused ssh-key-invalid-422 ': 422 ' compute ssh-key create bad --public-key 'ssh-ed25519 nonsense'
  runs ssh-key-get-by-id compute ssh-key get "$id" -o json
  is ssh-key-get-by-id-name "key-a-$run" "$(field .name)"
  runs ssh-key-get-by-fingerprint compute ssh-key get "$fingerprint" -o json
  is ssh-key-get-by-fingerprint-id "$id" "$(field .id)"
  runs ssh-key-update compute ssh-key update "$id" --key-name "renamed-$run"
  doctl compute ssh-key get "$id" --format Name,FingerPrint --no-header
  like ssh-key-renamed "^renamed-$run +$fingerprint$" "$out"
  runs ssh-key-update-by-fingerprint compute ssh-key update "$fingerprint" --key-name "again-$run"
  runs ssh-key-list compute ssh-key list -o json
  is ssh-key-listed "again-$run" "$(list ".[] | select(.id == $id) | .name")"
  is ssh-key-listed-once 1 "$(list "[.[] | select(.id == $id_b)] | length")"
  runs ssh-key-delete compute ssh-key delete "$id" --force
  refused ssh-key-gone-404 ': 404 .*not be found' compute ssh-key get "$id"
  runs ssh-key-delete-by-fingerprint compute ssh-key delete "$(api "/v2/account/keys/$id_b" | jq -r .ssh_key.fingerprint)" --force
  refused ssh-key-delete-gone-404 ': 404 ' compute ssh-key delete "$id_b" --force
}

check_tags() {
  runs tag-create compute tag create "Tag:$run" -o json
  is tag-create-name "Tag:$run" "$(field .name)"
  is tag-create-droplets object "$(field '.resources.droplets | type')"
  runs tag-create-again compute tag create "Tag:$run"
  runs tag-get compute tag get "Tag:$run" --format Name,DropletCount --no-header
  like tag-get-columns "^Tag:$run +0$" "$out"
  refused tag-bad-name ': 4(00|22)' compute tag create 'no spaces or !'
  refused tag-unknown-404 ': 404 .*not be found' compute tag get "unknown-$run"
  # Two pages of 200 and one of 30: doctl reads them in parallel from links.pages.last.
  # xargs ends with 0 only if each of them did.
  seq -f "page-$run-%03g" 1 430 | xargs -P 4 -n 1 "$program" compute tag create >/dev/null 2>"$work/tags"
  is tag-create-430 '0 ' "${PIPESTATUS[1]} $(<"$work/tags")"
  runs tag-list compute tag list -o json
  is tag-list-over-two-pages 430 "$(list "[.[].name | select(startswith(\"page-$run-\"))] | unique | length")"
  is tag-list-no-repeats 0 "$(list '[.[].name] | length - (unique | length)')"
  mapfile -t names < <(seq -f "page-$run-%03g" 1 430)
  runs tag-delete-430 compute tag delete "${names[@]}" --force
  doctl compute tag list -o json
  is tag-list-after-delete 0 "$(list "[.[].name | select(startswith(\"page-$run-\"))] | length")"
  runs tag-delete compute tag delete "Tag:$run" --force
  refused tag-delete-again-404 ': 404 ' compute tag delete "Tag:$run" --force
}

image=0
check_image_create() {
  runs image-create compute image create "disk-$run" --image-url "$CISTERN_IMAGE_URL" --region nyc3 \
    --image-distribution Debian --image-description 'made by doctl' --tag-names "img-$run,second-$run" -o json
  image=$(field .id)
  like image-create-id '^[1-9][0-9]*$' "$image"
  is image-create-fields "disk-$run,custom,Debian,false,made by doctl" \
    "$(field '"\(.name),\(.type),\(.distribution),\(.public // false),\(.description)"')"
  like image-create-status '^(NEW|pending|available)$' "$(field .status)"
  like image-created-at "$seconds_z" "$(field .created_at)"
  local action
  action=$(api "/v2/images/$image/actions" | jq -r '.actions[0].id')
  like image-has-action '^[1-9][0-9]*$' "$action"
  runs action-wait compute action wait "$action" --poll-timeout 1 -o json
  is action-wait-result "completed,$image,image,nyc3" \
    "$(field '"\(.status),\(.resource_id),\(.resource_type),\(.region.slug // .region_slug)"')"
  image_settled "$image"
  is image-available available "$(field .status)"
  is image-regions '["nyc3"]' "$(field '.regions | tostring')"
  is image-tags "img-$run,second-$run" "$(field '.tags | sort | join(",")')"
  is image-size-known true "$(field '.size_gigabytes > 0 and .min_disk_size >= 1')"
  runs action-get compute action get "$action" -o json
  is action-get-times true "$(field '(.started_at | fromdateiso8601) <= (.completed_at | fromdateiso8601)')"
  runs action-list compute action list --resource-type image --status completed -o json
  is action-listed 1 "$(list "[.[] | select(.id == $action)] | length")"
  doctl compute action list --resource-type image --action-type no-such-type -o json
  is action-list-filter 0 "$(list length)"
  refused action-unknown-404 ': 404 .*not be found' compute action get 999999999
  refused action-wait-unknown-404 ': 404 ' compute action wait 999999999
  runs image-action-get compute image-action get "$image" --action-id "$action" --format ID,Status,ResourceID --no-header
  like image-action-columns "^$action +completed +$image$" "$out"
  refused image-action-unknown-404 ': 404 ' compute image-action get "$image" --action-id 999999999
}

check_image_transfer() {
  runs image-transfer compute image-action transfer "$image" --region lon1 -o json
  is image-transfer-fields "transfer,$image,image,lon1" \
    "$(field '"\(.type),\(.resource_id),\(.resource_type),\(.region.slug)"')"
  local action
  action=$(field .id)
  runs image-transfer-wait compute image-action transfer "$image" --region fra1 --wait \
    --format Status,Type,ResourceID,ResourceType,Region --no-header
  like image-transfer-wait-columns "completed +transfer +$image +image +fra1$" "$out"
  runs image-transfer-action compute image-action get "$image" --action-id "$action" -o json
  is image-transfer-ended completed,true "$(field '"\(.status),\(.completed_at != null)"')"
  runs image-transfer-again compute image-action transfer "$image" --region lon1 --wait
  runs image-transfer-get compute image get "$image" -o json
  # Terraform compares this list with its plan.
  is image-transfer-regions available,nyc3,lon1,fra1 "$(field '[.status, .regions[]] | join(",")')"
  refused image-transfer-region-422 ': 422 .*region' compute image-action transfer "$image" --region nowhere9
  refused image-transfer-unknown-404 ': 404 ' compute image-action transfer 999999999 --region lon1 --wait
  runs action-list-region compute action list --region fra1 --action-type transfer -o json
  is action-list-region-one fra1 "$(list '[.[].region.slug] | unique | join(",")')"
  doctl compute action list --after 2100-01-01T00:00:00Z -o json
  is action-list-after 0 "$(list length)"
  doctl compute action list --before 2100-01-01T00:00:00Z --format ID,Status --no-header
  like action-list-before "^$action +completed$" "$out"
}

check_image_lists() {
  local verb
  runs image-list compute image list -o json
  is image-in-list "disk-$run" "$(list ".[] | select(.id == $image) | .name")"
  runs image-list-user compute image list-user -o json
  is image-in-list-user "disk-$run" "$(list ".[] | select(.id == $image) | .name")"
  for verb in list-application list-distribution; do
    runs "image-$verb" compute image "$verb" -o json
    is "image-$verb-is-an-array" array "$(list type)"
    is "image-$verb-has-no-private-image" 0 "$(list "[.[] | select(.id == $image)] | length")"
    is "image-$verb-all-empty" 0 "$(list length)" # until there are distributions and applications
  done
  runs image-list-public compute image list --public -o json
  is image-in-list-public 1 "$(list "[.[] | select(.id == $image)] | length")"
  doctl compute image list --format ID,Name,Type,Distribution,Public,MinDisk --no-header
  like image-columns "^$image +disk-$run +custom +Debian +false +[1-9][0-9]*$" "$out"
}

check_image_tags() {
  runs tag-apply compute tag apply "img-$run" --resource "do:image:$image"
  doctl compute tag create "extra-$run"
  runs tag-apply-new compute tag apply "extra-$run" --resource "do:image:$image"
  doctl compute image get "$image" -o json
  is image-tagged "extra-$run,img-$run,second-$run" "$(field '.tags | sort | join(",")')"
  doctl compute tag get "extra-$run" -o json
  is tag-counts-image 1 "$(field .resources.images.count)"
  runs tag-remove compute tag remove "extra-$run" --resource "do:image:$image"
  doctl compute image get "$image" -o json
  is image-untagged "img-$run,second-$run" "$(field '.tags | sort | join(",")')"
  refused tag-apply-unknown-tag ': 404 ' compute tag apply "unknown-$run" --resource "do:image:$image"
  refused tag-apply-unknown-image ': 404 ' compute tag apply "img-$run" --resource do:image:999999999
  runs tag-delete-in-use compute tag delete "second-$run" --force
  doctl compute image get "$image" -o json
  is image-loses-deleted-tag "img-$run" "$(field '.tags | join(",")')"
}

check_image_change_and_refusals() {
  runs image-update compute image update "$image" --image-name "renamed $run" -o json
  is image-update-answer "renamed $run,Debian" "$(field '"\(.name),\(.distribution)"')"
  doctl compute image get "$image" -o json
  is image-update-kept "renamed $run,made by doctl,available" "$(field '"\(.name),\(.description),\(.status)"')"
  refused image-unknown-404 ': 404 .*not be found' compute image get 999999999
  refused image-unknown-slug-404 ': 404 .*not be found' compute image get "no-such-slug-$run"
  refused image-update-unknown-404 ': 404 ' compute image update 999999999 --image-name x
  refused image-delete-unknown-404 ': 404 ' compute image delete 999999999 --force
  refused image-create-region-422 ': 422 .*region' compute image create x --image-url "$CISTERN_IMAGE_URL" --region nowhere9
  refused image-create-scheme-422 ': 422 .*(http|url|URL)' compute image create x --image-url ftp://127.0.0.1/x --region nyc3
  refused image-create-no-url-422 ': 422 .*(url|URL)' compute image create x --image-url nonsense --region nyc3
  refused image-create-no-name-422 ': 422 .*name' compute image create '' --image-url "$CISTERN_IMAGE_URL" --region nyc3
  runs image-create-bad compute image create "bad-$run" --image-url "$CISTERN_BAD_IMAGE_URL" --region nyc3 -o json
  local bad_image
  bad_image=$(field .id)
  is image-create-distribution-default Unknown "$(field .distribution)"
  image_settled "$bad_image"
  is image-bad-ends-deleted deleted "$(field .status)"
  like image-bad-has-reason '.{15,}' "$(field '.error_message // empty')"
  is image-bad-action errored "$(api "/v2/images/$bad_image/actions" | jq -r '.actions[0].status')"
}

check_image_delete() {
  runs image-delete compute image delete "$image" --force
  doctl compute image list -o json
  is image-delete-unlisted 0 "$(list "[.[] | select(.id == $image)] | length")"
  doctl compute image get "$image" -o json
  is image-delete-get deleted "$(field .status)"
  refused image-delete-again ': 422 .*Can not delete an already deleted image' compute image delete "$image" --force
}

check_projects() {
  local id default
  runs project-default projects get default -o json
  is project-default-is-default true "$(field .is_default)"
  default=$(field .id)
  runs project-create projects create --name "project-$run" --purpose 'Web Application' --description d1 \
    --environment Development -o json
  id=$(field .id)
  like project-id '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' "$id"
  is project-create-fields "project-$run,Web Application,d1,Development,false" \
    "$(field '"\(.name),\(.purpose),\(.description),\(.environment),\(.is_default)"')"
  like project-created-at '^[0-9-]{10}T[0-9:]{8}(\.[0-9]+)?Z$' "$(field .created_at)"
  refused project-name-taken ': 4(09|12|22) ' projects create --name "project-$run" --purpose x
  runs project-update projects update "$id" --name "renamed-$run" --purpose 'fill a cistern' -o json
  is project-updated "renamed-$run,Other: fill a cistern,d1" "$(field '"\(.name),\(.purpose),\(.description)"')"
  runs project-get projects get "$id" --format ID,Name,Environment,IsDefault --no-header
  like project-columns "^$id +renamed-$run +Development +false$" "$out"
  runs project-list projects list -o json
  is project-listed "renamed-$run" "$(list ".[] | select(.id == \"$id\") | .name")"
  is project-list-one-default 1 "$(list '[.[] | select(.is_default)] | length')"
  runs project-resources-list projects resources list "$id" -o json
  is project-resources-empty 0 "$(list length)"
  runs project-resources-assign projects resources assign "$id" --resource do:droplet:999999999 -o json
  is project-resources-assign-unknown 'do:droplet:999999999,not_found' "$(field '"\(.urn),\(.status)"')"
  runs project-resources-assign-image projects resources assign "$id" --resource "do:image:$image" -o json
  is project-resources-assigned "do:image:$image,assigned" "$(field '"\(.urn),\(.status)"')"
  runs project-resources-assign-again projects resources assign "$id" --resource "do:image:$image"
  like project-resources-already "^do:image:$image +[0-9TZ:-]+ +already_assigned$" "$out"
  doctl projects resources list "$id" -o json
  is project-resources-listed "do:image:$image,ok" "$(list '.[] | "\(.urn),\(.status)"')"
  doctl projects resources list "$default" -o json
  is project-resources-moved 0 "$(list "[.[] | select(.urn == \"do:image:$image\")] | length")"
  refused project-delete-with-resources ': 412 ' projects delete "$id" --force
  runs project-resources-back projects resources assign "$default" --resource "do:image:$image"
  refused project-resources-bad-urn ': 4(00|22) ' projects resources assign "$id" --resource nonsense
  refused project-resources-get-unknown ': 404 ' projects resources get do:droplet:999999999
  runs project-make-default projects update "$id" --is_default -o json
  doctl projects get default -o json
  is project-default-moved "$id" "$(field .id)"
  refused project-default-delete ': 4[0-9][0-9] ' projects delete "$id" --force
  runs project-default-back projects update "$default" --is_default
  runs project-delete projects delete "$id" --force
  refused project-gone-404 ': 404 .*not be found' projects get "$id"
  refused project-unknown-404 ': 404 ' projects update "$id" --name x
}

check_account
check_auth_init
check_refusals_of_tokens
check_places
check_ssh_keys
check_tags
check_image_create
check_image_transfer
check_image_lists
check_image_tags
check_image_change_and_refusals
check_projects
check_image_delete
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
