-- ARGV: now or '', claim
if held() == ARGV[2] then call('DEL', CLAIM) end
return 1
