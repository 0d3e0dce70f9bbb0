-- Runs on every answer to an attempt. A refusal for which another model stands in gives that model the rest of the call:
-- its chain takes the place of what is left of this one.
local function place(groups)
  for number, group in ipairs(groups) do
    if group["clusters"][1]["cluster_name"] == CLUSTER then
      return number
    end
  end
end

local function is_last(groups, number)
  local after = groups[number + 1]
  return after ~= nil and after["clusters"][1]["cluster_name"] == SINK
end

-- What a body of the provider's refuses a call for; nil where that is something else, or nobody can tell.
local function cause_of(response)
  local length = response:headers():get("content-length")
  if length and tonumber(length) > LONGEST then
    return nil
  end
  local body = response:body()
  if not body or body:length() > LONGEST then
    return nil
  end
  local text = string.lower(body:getBytes(0, body:length()))
  for _, cause in ipairs(CAUSES) do
    for _, code in ipairs(cause.codes) do
      if string.find(text, '"code"%s*:%s*"' .. code .. '"') then
        return cause.name
      end
    end
    for _, words in ipairs(cause.words) do
      if string.find(text, words, 1, true) then
        return cause.name
      end
    end
  end
end

-- Attempts are counted by places in the order, so those that were made keep theirs.
local function hand_over(metadata, cause, number)
  local other, groups = metadata:get(INSTEAD)[cause], {}
  for passed = 1, number do
    groups[passed] = {name = "passed", clusters = {{cluster_name = SINK, weight = 1}}}
  end
  for _, group in ipairs(other["groups"]) do
    groups[#groups + 1] = group
  end
  metadata:set(ORDER, "priority_groups", groups)
  for _, field in ipairs({"path", "deployed", "model", "translate"}) do
    metadata:set(CHAIN, field, other[field] or {})
  end
  metadata:set(INSTEAD, "cause", cause)
end

function envoy_on_response(response)
  local metadata = response:streamInfo():dynamicMetadata()
  local instead = metadata:get(INSTEAD)
  if not instead or not next(instead) then
    return
  end
  local groups = metadata:get(ORDER)["priority_groups"]
  local status, number = tonumber(response:headers():get(":status")), place(groups)
  if instead["cause"] then
    response:headers():replace(FALLBACK, instead["cause"] .. "/" .. number)
  elseif REFUSALS[status] then
    local cause = cause_of(response)  -- what was looked up before may not be used any more
    if cause and instead[cause] then
      hand_over(response:streamInfo():dynamicMetadata(), cause, number)
      response:headers():replace(AGAIN, "1")
      return
    end
  end
  if status >= 400 and is_last(groups, number) then  -- what is left of the tries is for the other model
    response:headers():replace(LAST, "true")
  end
end
