-- ARGV: now or '', claim, life
if held() ~= ARGV[2] then return 0 end
claim(ARGV[2], ARGV[3])
return 1
