-- Keeps of a request to a service what that needs. Whatever else its sender wrote, or Envoy added, does not leave.
local ALLOWED = { ["content-type"] = true, ["content-length"] = true, ["accept"] = true }

function envoy_on_request(handle)
  local headers = handle:headers()
  local others = {}
  for name in pairs(headers) do -- while it runs, none may be removed
    if name:sub(1, 1) ~= ":" and not ALLOWED[name] then
      others[#others + 1] = name
    end
  end
  for _, name in ipairs(others) do
    headers:remove(name)
  end
end
