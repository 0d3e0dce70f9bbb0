-- Runs before every attempt. Headers of the attempt before are still in place, so what is not set here leaks.
-- Some of these a translated attempt before may have brought, or taken away though they are the caller's.
local function restore(headers, call)
  for _, name in ipairs(ASKING) do
    if call[name] then
      headers:replace(name, call[name])
    else
      headers:remove(name)
    end
  end
end

local function rewrite(request)
  local metadata = request:streamInfo():dynamicMetadata()
  local chain, call = metadata:get(CHAIN), metadata:get(CALL)
  request:headers():replace(":path", chain["path"][CLUSTER])
  if chain["translate"] and next(chain["translate"]) then
    restore(request:headers(), call)
  end
  local model = chain["model"] and chain["model"][CLUSTER]
  if model then
    local from, to = tonumber(call["at"]), tonumber(call["to"])
    local body = request:body()
    local length = body:length()
    assert(0 <= from and from <= to and to <= length)
    body:setBytes(body:getBytes(0, from) .. model .. body:getBytes(to, length - to))
  end
end

-- An error that escaped would send the attempt on with the path of the one before: answer instead.
function envoy_on_request(request)
  if not pcall(rewrite, request) then
    request:respond({[":status"] = "500"}, "")
  end
end
